"""The hand-written part of config/README.md; `srt.config.document` puts the tables of keys below it.

The YAML blocks are real: a test loads each of them together with the smoke configuration.
"""

INTRODUCTION = """
# Configuration

What is run is said here and nowhere else; how and where it runs is in `workflow/profiles/`. This file is generated
(`python scripts/config_docs.py`; `--check` says whether it is up to date): change the texts in `src/srt/config/`.

| file | what |
|---|---|
| `config.yaml` | the full reproduction, the default of `snakemake` |
| `models.yaml`, `datasets.yaml`, `experiments.yaml`, `figures.yaml`, `claims.yaml` | its sections |
| `experiments_v2.yaml`, `figures_v2.yaml` | what the second version of the paper adds to two of them |
| `mini.yaml`, `mini/` | the paper in miniature, on a CPU in an hour: `make mini` |
| `smoke.yaml`, `smoke/` | the same workflow on tiny models, in minutes: `snakemake --profile workflow/profiles/smoke` |
| `smollm2.yaml` | a small real model: base sampling on a CPU, training on one GPU; sections and all in one file |

A `--configfile` replaces `config.yaml` as a whole; nothing is merged. Single keys of the main file can be set on the
command line: `snakemake --config results=/scratch/me/srt`, `snakemake --config 'sampling={n: 8}'` (with the space).

A mistake stops Snakemake before any job with one sentence: file, keys, what is wrong, and the nearest known key. Only
if the main file itself is missing or no YAML, the words are Snakemake's own, without a line number.

## How the files fit together

- `files:` names one YAML file a section, or a list of files (`models`, `datasets`, `suites`, `runs`, `figures`,
  `claims`). Such a file *is* the section: its top-level keys are ids, each in one file only. A section is in the main
  file or in files of its own, not in both. Paths start from the folder that snakemake runs in.
- Write numbers as `1.0e-6`: YAML 1.1 takes `1e-6` for text. Where a number is due, such a text is accepted.
- Ids are lower-case letters, digits and `_`: they become file names and targets.
- `train_defaults` are the keys of `train` that every run starts from. What counts, in this order: the entry's own
  `train`, then that of the entry that it `extends`, then `train_defaults`, then the preset, then the default in the
  table below.
- `preset` is `clean` (what the paper says), `authors` (what their released code does), `trl` (TRL's RLOOTrainer) or
  `ttrl` (TTRL's objective; docs/trainer.md). It fills in the keys that are null; a key that is set anywhere wins.
- `extends: ID` takes over all keys of another run; the entry's own win, and those of `train` one by one. An entry whose
  id starts with `_` is no run: others extend it.
- `seeds: [1, 2]` makes two runs of one entry, `id-s1` and `id-s2`; figures draw their mean and band. Adding a seed
  leaves the others alone. A run that does not list its seeds has as many as `seeds` of the main file says:
  `snakemake --config seeds=1` is the matrix with one seed.
- `init: {run: ID}` starts a run from the last checkpoint of another, each seed from the same seed; step 0 of it, in
  figures and tables, and the reference of its KL are that checkpoint. `teacher: {run: ID}` takes the labels of reward
  `offline_labels` from there. Give a `step` to pin it: without, extending that run moves both.
- `sampling` in a model's entry is for the samples of that model and of the runs on it, e.g. `{temperature: 0.0, n: 1}`.
- A hub revision that is no commit needs `unpinned: REASON`; each start then warns, and the model's provenance and the
  data set's manifest name the commit that was fetched.
- A suite is what one job samples together. Put a new test set into a suite of its own, or use the data set's id, which
  is a suite too: then the old suites' samples stay. A new member of an old suite samples all of that suite again.

## What reruns, and what does not

Each expensive rule has one spec, the JSON of the keys that change its result; it runs again when the spec or an input
changes.

| you change | what runs again |
|---|---|
| `label`, `method`, `title`, `panels`, `options`, other keys of figures | the figures and tables that show it |
| an entry of `claims` | the table of claims |
| `parameters`, `gpus`, `gpus_*`, `job`, `*_job`, `save_every`, `keep_states`, `plan`, a comment | nothing |
| `timeout_s`, `memory_mb`, `workers` of `scoring` | nothing; `--forcerun score` grades again where \
answers ran into a limit |
| `local_dir`, or where the files in it come from | nothing, while their content is the same |
| the content of a `local` data set's file | as an entry of `datasets`, below |
| `steps` of a run, upwards, in multiples of `segment` | the new segments, with their evaluations and figures |
| anything in `train`, `reward`, `on_alarm`, `curriculum`, `model`, `data`, `init`, `teacher` of a run | that run, its \
evaluations and figures, the runs that start or learn from it |
| `validation` of a run | the table of early stopping |
| anything in `sampling`, or in a model's own, or its `prompt_suffix` | all samples of it (the suffix: its runs too), \
what follows |
| `preset`, `extractor` of `scoring` | all scores, which are cheap, and what follows: labels, curricula and the runs \
on them (`extractor`: all training runs) |
| an entry of `datasets` | that table, its samples, the runs on it |
| an entry of `models` (a tiny one: also `context`, `threads`) | that model and everything on it |

`snakemake -n` says what would run. A run can be extended only if the state of its last checkpoint is still there,
which `keep_states: last` sees to.

## Completion in an editor

`workflow/schemas/` has a JSON schema of every file. Editors with yaml-language-server (VS Code's YAML extension,
neovim, …) complete and explain keys if the file's first line says where its schema is:

```
# yaml-language-server: $schema=../workflow/schemas/config.schema.json
```

This is for the main files; write `models.schema.json`, `datasets.schema.json`, `runs.schema.json`,
`figures.schema.json` or `claims.schema.json` in the files of a section, and one more `../` in a subfolder.

## Examples

Add each to the file of its section in `config/smoke/` and run it with `--profile workflow/profiles/smoke`: they name
models, data and runs of the smoke configuration. In the full one, `config/*.yaml`, these have other names.

A data set, to `config/smoke/datasets.yaml` (docs/data.md for Reasoning Gym and the hub):

```yaml
# datasets
my_sums:
  source: local
  path: my_sums.jsonl           # under local_dir, else the current folder; columns problem and answer
  expect_rows: 200
```

It can be trained on (`data: my_sums`) and, being a suite by itself, tested on (`suites: [tests, my_sums]`).

A model, to `config/smoke/models.yaml`; `snakemake` without a target fetches it, for the table of provenance:

```yaml
# models
my_qwen3_4b:
  source: hub
  repo: Qwen/Qwen3-4B-Base
  revision: 906bfd4b4dc7f14ee4320094d8b41684abff8539
  parameters: 4.0e+9
  gpus_train: 8
  gpus_sample: 1
  context: 4096
```

A run, to `config/smoke/experiments.yaml`; two seeds, with what the authors' code did, and one changed hyperparameter:

```yaml
# runs
srt_authors:
  label: SRT (authors' code)
  method: srt
  model: tiny
  data: sums3
  reward: majority
  seeds: [1, 2]
  steps: 12
  segment: 6
  suites: [tests]
  train:
    preset: authors
    learning_rate: 5.0e-5
```

`snakemake --profile workflow/profiles/smoke srt_authors_s1` trains and evaluates one seed of it. The same from where
SRT on the smaller sums ended, with labels that the start makes once, and with early stopping:

```yaml
# runs
srt_mix_on:
  extends: srt_mix
  label: SRT after SRT
  init: {run: srt_sums3}
  validation: {dataset: mix_heldout}
teacher_mix:
  extends: srt_mix_on
  label: Fixed teacher
  method: offline
  reward: offline_labels
```

A figure, to `config/smoke/figures.yaml`. Its caption in the report is `workflow/report/fig20.rst`: write that first, as
Snakemake stops at a figure without one. Then `snakemake --profile workflow/profiles/smoke fig20` makes it:

```yaml
# figures
fig20:
  kind: curves
  title: Two presets
  suite: tests
  datasets: [sums3_test, sums4_test]
  panels:
    - {title: Sums of 3, runs: [srt_sums3, srt_authors]}
```
"""
