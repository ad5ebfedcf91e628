# sqlite's own tests, a program a file. Not as root, which may write to what is read-only. fts5's files stand in its own
# directory.
tests="select1 expr date boundary1 hexlit json101 window1 printf2 where insert types cast collate1 trigger1 upsert1
  fts5ea rtree1"
[ "$1" = short ] || tests="$tests select4 func like join update delete index null savepoint btree01 pageropt pager4
  journal1 walbak vacuum autovacuum corrupt2 memdb temptable view fkey1 printf atof1 intpkey fts3aa fts4aa blob thread001"
chown nobody .
for test in $tests; do
  echo "== $test"
  echo "run $test" >/dev/console
  file=$(find /opt/test /opt/ext -name "$test.test" | head -n 1)
  setpriv --reuid=nobody --regid=nogroup --clear-groups /opt/testfixture "$file" || bad=1
done
exit $bad
