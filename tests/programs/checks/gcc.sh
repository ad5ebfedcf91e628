# gcc compiles the same program in several ways: its code and what that computes.
cp /mnt/checks/gcc.c . || exit 1
set -- "$1" "-O0" "-O2"
[ "$1" = short ] || set -- "$@" "-O3 -march=x86-64-v2" "-O2 -mfpmath=387" "-Os -fno-pie -static" "-O1 -fsanitize=undefined -fsanitize-undefined-trap-on-error"
shift
gcc --version | head -n 1
for options; do
  echo "gcc $options"
  gcc $options -S -o program.s gcc.c && sha256sum <program.s
  gcc $options -o program gcc.c -lm && sha256sum <program && ./program
done
