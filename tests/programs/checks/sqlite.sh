# sqlite3: a database with indexes, triggers, full text and JSON; what its queries answer, and its integrity check.
[ "$1" = short ] && rows=5000 || rows=60000
sed "s/@ROWS/$rows/" /mnt/checks/sqlite.sql | sqlite3 -bail database.db
sqlite3 database.db 'PRAGMA integrity_check; SELECT count(*), sum(price) FROM item;'
sqlite3 database.db .dump | sha256sum
