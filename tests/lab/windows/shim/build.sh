#!/bin/sh
# Builds the shim: whpx_shim.so for Deno on Linux, WinHvPlatform.dll for Deno on Wine, and the stub deno.exe wants there.
#   build.sh OUTPUT_FOLDER
set -e
here="$(dirname "$0")"
out="$1"
mkdir -p "$out"
# Only winhvplatformdefs.h is taken from mingw's folder: Linux' own headers come first.
gcc -std=gnu11 -O2 -Wall -Werror -shared -fPIC -fvisibility=hidden -ffreestanding -nostdlib \
  -idirafter /usr/x86_64-w64-mingw32/include -o "$out/whpx_shim.so" "$here/whpx_shim.c"
if command -v x86_64-w64-mingw32-gcc >/dev/null; then
  x86_64-w64-mingw32-gcc -std=gnu11 -O2 -Wall -Werror -shared \
    -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu -o "$out/WinHvPlatform.dll" "$here/whpx_shim.c"
  x86_64-w64-mingw32-gcc -std=gnu11 -O2 -Wall -Werror -shared \
    -o "$out/bcryptprimitives.dll" "$here/bcryptprimitives.c" -ladvapi32
fi
