# Perl: big numbers, digests, packing, regular expressions, sorting, floating point.
[ "$1" = short ] && digits=120 || digits=600
perl -MMath::BigFloat -MDigest::SHA=sha512_hex -MDigest::MD5=md5_hex -e '
  my $digits = shift;
  print Math::BigFloat->bpi($digits), "\n", Math::BigInt->new(7)->bpow(900), "\n";
  my @words = map { my $n = $_; join "", map { chr 97 + ($_ * $n * 7 + $n) % 26 } 1 .. 5 + $n % 9 } 1 .. 3000;
  my $text = join " ", sort { $a cmp $b or length $a <=> length $b } @words;
  print sha512_hex($text), " ", md5_hex($text), "\n";
  my $count = () = $text =~ /([a-z])(?=[a-z]*\1)[aeiou]{1,2}/g;
  print "$count\n";
  my %seen; $seen{substr $_, 0, 3}++ for @words;
  print join(",", map { "$_=$seen{$_}" } sort keys %seen), "\n";
  print unpack("H*", pack("w/a* n N v V q> d< f> a5 H4", "abc", 1, 2, 3, 4, -5, 1.1, 2.2, "xyz", "beef")), "\n";
  printf "%.15g %e %s %s %x\n", $_ ** 0.37, sin($_) / 3, 1 / $_, 10 ** $_, $_ * 1234567 for 1 .. 30;
' "$digits"
