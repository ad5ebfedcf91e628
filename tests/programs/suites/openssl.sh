# OpenSSL's own tests under its own harness, whose first act is the FIPS provider's self-tests (fipsinstall).
tests="test_sha test_internal_chacha test_internal_poly1305 test_internal_modes test_ige test_hmac test_fipsinstall
  test_evp_extra"
[ "$1" = short ] || tests="$tests test_*internal* test_evp test_evp_libctx test_bn test_exp test_ec test_ecdsa
  test_rsa test_dsa test_dh test_des test_rc4 test_bf test_cmac test_rand test_x509 test_asn1*
  test_cms test_ssl_new test_sslapi test_threads"
mkdir results
: >fipsmodule.cnf && mount --bind fipsmodule.cnf /opt/test/fipsmodule.cnf || exit 1
export SRCTOP=/opt BLDTOP=/opt RESULT_D=$PWD/results PERL=perl EXE_EXT=
echo "run harness" >/dev/console
exec perl /opt/test/run_tests.pl $tests
