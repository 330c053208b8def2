#!/usr/bin/env bash
# The same with Collegium's commands: with_collegium.sh BASE TEXTS HELD_OUT LIBRARY [a flag of `train` ...]
set -euo pipefail
base=$1 texts=$2 held_out=$3 library=$4
collegium train "$texts" --library "$library" --base "$base" --layers top:10 --steps 48 --no-routers "${@:5}"
collegium eval "$held_out" --model "$library?router=posterior"
collegium generate "To be, or" --model "$library?router=posterior" --tokens 32
