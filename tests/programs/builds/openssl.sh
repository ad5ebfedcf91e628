# OpenSSL with its assembler code, the FIPS provider and all of its tests, by the programs' own gcc.
./Configure enable-fips || exit 1
make -s -j "$(nproc)" build_sw || exit 1
find . \( -name '*.o' -o -name '*.d' -o -name '*.a' \) -delete
find test fuzz apps engines providers -type f -perm -u+x -exec strip -g {} + 2>/dev/null
mkdir kept && find . -mindepth 1 -maxdepth 1 ! -name kept -exec mv -t kept {} +
# The one file that the tests write beside themselves; the suite puts one that can be written over it.
: >kept/test/fipsmodule.cnf
