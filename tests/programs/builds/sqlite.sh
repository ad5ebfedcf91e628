# sqlite's test program, with every extension that its tests know of, by the programs' own gcc.
./configure --enable-all --with-tcl=/usr/lib/x86_64-linux-gnu/tcl8.6 || exit 1
make testfixture || exit 1
mkdir kept && cp -r testfixture test ext src VERSION kept
