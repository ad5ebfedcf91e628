# Compressors: what they make is the same bytes as elsewhere, and comes back as it was.
[ "$1" = short ] && size=600000 || size=6000000
head -c $size /usr/bin/perl >data
seq 1 20000 >>data
sha256sum data
for one in "gzip -n" "gzip -n9" "zstd -q -3" "zstd -q -15" "bzip2" "xz -1" "xz -6e"; do
  [ "$1" = short ] && case $one in *9 | *15 | *6e) continue ;; esac
  $one -c <data >packed && echo "$one $(sha256sum <packed)"
  ${one%% *} -dc <packed | cmp - data && echo "$one: came back"
done
