#!/usr/bin/env bash
# From this machine to a detector on it: profile, search, train, distil, evaluate, export, benchmark, detect, report.
#
#   scripts/pipeline.sh [options] [-- options of `maenas train`]
#
#   --out DIR               where everything is written                       [runs/pipeline]
#   --data PATH             data set in a form of docs/custom-data.md         [shapes, generated]
#   --classes N             how many classes it has; needed with --data
#   --images PATH           pictures to detect in                             [generated, or those of --data]
#   --space NAME            search space                                      [demo]
#   --budget TIME           for the detector, on one thread of this CPU       [3ms]
#   --teacher-budget TIME   for the larger detector that teaches it           [6ms]
#
# Interrupted or killed, the same command goes on where it stopped. DIR/logs has what every step printed.
set -euo pipefail

usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

out=runs/pipeline
data=shapes
classes=
images=
space=demo
budget=3ms
teacher_budget=6ms
while [[ $# -gt 0 && $1 != -- ]]; do
  [[ $# -ge 2 ]] || usage
  case $1 in
    --out) out=$2 ;;
    --data) data=$2 ;;
    --classes) classes=$2 ;;
    --images) images=$2 ;;
    --space) space=$2 ;;
    --budget) budget=$2 ;;
    --teacher-budget) teacher_budget=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $# -eq 0 ]] || shift
recipe=auto
if [[ $data == shapes ]]; then
  classes=4
  recipe=demo
elif [[ -z $classes ]]; then
  echo "error: --data needs --classes; 'maenas data check $data' counts them" >&2
  exit 2
fi

command -v maenas >/dev/null || PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH  # what make has made
mkdir -p "$out/logs"
trap 'echo "stopped: the same command goes on here" >&2' ERR
set -E

# step LOG COMMAND...: a command whose output becomes a log. It is done when its log says so, after the step before it.
previous=
step() {
  local log=$out/logs/$1.txt began=$SECONDS command
  shift
  command="\$$(printf ' %q' "$@")"  # as a shell takes it
  printf '\n%s\n' "$command"
  if [[ -e $log && ! $log -ot ${previous:-$log} && $(head -n 1 "$log") == "$command" ]]; then
    echo "done before: $log"
  else
    rm -f "$log"
    echo "$command" >"$log.partial"
    "$@" | tee -ia "$log.partial"
    mv "$log.partial" "$log"
    echo "($((SECONDS - began)) s)"
  fi
  previous=$log
}

step check maenas data check "$data" --sheet "$out/data.png"

# The CPU time of one thread, so that other work on the machine does not count.
table=$out/latency.json
step profile maenas profile --device cpu --clock cpu --space "$space" --out "$table"
search=(maenas search --space "$space" --neck preset --device "$table" --classes "$classes" --out "$out")
step search-teacher "${search[@]}" --budget "$teacher_budget" --name teacher
step search-student "${search[@]}" --budget "$budget" --name student
step validate maenas validate --device "$table" --spec "$out/student.json" --spec "$out/teacher.json" \
  --space "$space" --random 6

train=(--data "$data" --recipe "$recipe" --resume "$@")
step train maenas train "$out/teacher.json" --out "$out/teacher" "${train[@]}"
teacher=$out/teacher/weights.safetensors
step distil maenas train "$out/student.json" --teacher "$teacher" \
  --out "$out/student" "${train[@]}"
weights=$out/student/weights.safetensors
step evaluate maenas eval "$weights" --data "$data"

step export maenas export "$weights" --out "$out/student.onnx"
step export-int8 maenas export "$weights" --precision int8 --rest fp32 --data "$data" --calibration percentile \
  --max-drop 0.005 --out "$out/student-int8.onnx"
step evaluate-int8 maenas eval "$out/student-int8.onnx" --data "$data"

if [[ -z $images ]]; then
  images=$data
  if [[ $data == shapes ]]; then
    images=$out/pictures
    [[ -d $images ]] || maenas data shapes "$images" --images 20 --seed 1
  fi
fi
step benchmark maenas benchmark "$weights" "$out/student.onnx" "$out/student-int8.onnx" --images "$images" \
  --threads 1 --table "$table"
step detect maenas detect "$images" --weights "$out/student.onnx" --out "$out/detections"
step report maenas report "$out/student.json" "$weights" "$teacher" --space "$space" \
  --detections "$out/detections" --out "$out/report.html"

printf '\nAfter %d min %d s:\n' $((SECONDS / 60)) $((SECONDS % 60))
cat <<END
  $out/report.html     everything about both detectors on one page
  $out/student.json    the detector for $budget, teacher.json the one for $teacher_budget
  $out/student/        its training: weights.safetensors to go on from, curves, metrics
  $out/student.onnx    to deploy, student-int8.onnx quantised
  $out/detections/     pictures with what it found in them
  $out/latency.json    this machine: maenas search --device $out/latency.json searches for it again
END
