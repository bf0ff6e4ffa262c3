#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU should do with this checkout, within 8 minutes, into one folder:
# build in place, say what was built, run the GPU tests, memcheck and racecheck of a small case, and the benchmark.
#
#   bench/gpu_check.sh [FOLDER]        default: $OUT, else build/gpu_check
#
# Every step runs, whatever became of those before it; the exit status is 0 only when all of them passed.
# Environment: PYTHON (python3), GPU_CHECK_SECONDS (480) for everything together, RNNDROP_COMMIT where git is missing.
set -uo pipefail
root=$(realpath "$(dirname "$0")/..")
out=$(realpath -m "${1:-${OUT:-$root/build/gpu_check}}")
cd "$root" || exit 2
python=${PYTHON:-python3}
deadline=$((SECONDS + ${GPU_CHECK_SECONDS:-480}))
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

fail() {
  echo "gpu_check: $1" >&2
  exit 2
}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  fail "no GPU: $python has no torch that sees a CUDA device. Nothing was run."
mkdir -p "$out" || fail "cannot make the folder $out"
: >"$out/summary.txt" || fail "cannot write to $out"

# step NAME SECONDS COMMAND...: runs it for so long at most, its output in NAME.log and its status in the summary.
failures=0
step() {
  local name=$1 limit=$2 status=0 start=$SECONDS left=$((deadline - SECONDS))
  shift 2
  if ((left < 1)); then
    echo "$name: FAILED, no time was left for it" | tee -a "$out/summary.txt"
    failures=$((failures + 1))
    return
  fi
  echo "==> $name: $*"
  # An interrupt first: the benchmark has written what it measured so far, and Python says where it was.
  timeout --signal=INT --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$out/$name.log" 2>&1 || status=$?
  local result=passed
  if ((status != 0)); then
    result="FAILED, exit status $status"
    ((status == 124 || status == 137)) && result+=" (out of time)"
    failures=$((failures + 1))
    tail -n 15 "$out/$name.log"
  fi
  echo "$name: $result, $((SECONDS - start)) s" | tee -a "$out/summary.txt"
}

gpu_tests() {
  "$python" -m pytest -m gpu -rs -p no:cacheprovider tests || return
  # A GPU is there, so a test that is skipped for want of one means a build without kernels.
  "$python" -c 'from rnndrop_cuda.functional import usable_backends as u; why = u()["cuda"]; assert not why, why'
}
info() {
  nvidia-smi && "$python" -m rnndrop_cuda info
}
export -f gpu_tests info
export python

# Without torch's cache every tensor is an allocation of its own, so that memcheck sees a step beyond its end.
sanitize=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 3)

step build 240 env FORCE_CUDA=1 "$python" setup.py build_ext --inplace
step info 30 bash -c info
step tests 150 bash -c gpu_tests
step memcheck 90 "${sanitize[@]}" --tool memcheck "$python" -m bench.small_case
# Our kernels alone: cuBLAS' are not ours to check, and racecheck is slow.
step racecheck 90 "${sanitize[@]}" --tool racecheck --kernel-regex kns=rnndrop "$python" -m bench.small_case
step bench 300 "$python" -m bench.lstm --device cuda --out "$out/cuda.csv"

if ((failures > 0)); then
  echo "gpu_check: $failures of 6 steps failed, see $out" | tee -a "$out/summary.txt"
  exit 1
fi
echo "gpu_check: all passed" | tee -a "$out/summary.txt"
