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
| `models.yaml`, `datasets.yaml`, `experiments.yaml`, `figures.yaml` | its sections |
| `smoke.yaml`, `smoke/` | the same workflow on tiny models: `snakemake --configfile config/smoke.yaml` |

A `--configfile` replaces `config.yaml` as a whole; nothing is merged. Single keys of the main file can be set on the
command line: `snakemake --config results=/scratch/me/srt`, `snakemake --config 'sampling={n: 8}'` (with the space).

A mistake stops Snakemake before any job with one sentence: file, keys, what is wrong, and the nearest known key. Only
if the main file itself is missing or no YAML, the words are Snakemake's own, without a line number.

## How the files fit together

- `files:` names one YAML file a section, or a list of files (`models`, `datasets`, `suites`, `runs`, `figures`). Such a
  file *is* the section: its top-level keys are ids, each in one file only. A section is in the main file or in files of
  its own, not in both. Paths start from the folder that snakemake runs in.
- Write numbers as `1.0e-6`: YAML 1.1 takes `1e-6` for text. Where a number is due, such a text is accepted.
- Ids are lower-case letters, digits and `_`: they become file names and targets.
- `train_defaults` are the keys of `train` that every run starts from. What counts, in this order: the entry's own
  `train`, then that of the entry that it `extends`, then `train_defaults`, then the preset, then the default in the
  table below.
- `preset` is `clean` (what the paper says) or `authors` (what their released code does). It fills in the keys that
  are null; a key that is set anywhere wins over it.
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
| `parameters`, `gpus`, `gpus_*`, `job`, `*_job`, `save_every`, `keep_states`, `workers`, a comment | nothing |
| `steps` of a run, upwards, in multiples of `segment` | the new segments, with their evaluations and figures |
| anything in `train`, `reward`, `on_alarm`, `curriculum`, `model`, `data`, `init`, `teacher` of a run | that run, its \
evaluations and figures, the runs that start or learn from it |
| `validation` of a run | the table of early stopping |
| anything in `sampling`, or in a model's own, or its `prompt_suffix` | all samples of it (the suffix: its runs too), \
what follows |
| `scoring` | all scores, which are cheap, and what follows (`extractor`: the training runs too) |
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

This is for the main files; write `models.schema.json`, `datasets.schema.json`, `runs.schema.json` or
`figures.schema.json` in the files of a section, and one more `../` in a subfolder.

## Examples

A data set, in `datasets.yaml` (docs/data.md for Reasoning Gym and the hub):

```yaml
# datasets
my_sums:
  source: local
  path: my_sums.jsonl           # under local_dir; columns problem and answer
  expect_rows: 200
```

It can be trained on (`data: my_sums`) and, being a suite by itself, tested on (`suites: [tests, my_sums]`).

A model, in `models.yaml`:

```yaml
# models
qwen3_4b_base:
  source: hub
  repo: Qwen/Qwen3-4B-Base
  revision: 906bfd4b4dc7f14ee4320094d8b41684abff8539
  parameters: 4.0e+9
  gpus_train: 8
  gpus_sample: 1
  context: 4096
```

A run, in `experiments.yaml`; two seeds, with what the authors' code did, and one changed hyperparameter:

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

`snakemake srt_authors_s1` trains and evaluates one seed of it. The same from where SRT on the smaller sums ended, with
labels that the start makes once, and with early stopping:

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

A figure, in `figures.yaml`; `snakemake fig20` makes it:

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

Its caption in the report is `workflow/report/fig20.rst`.
"""
