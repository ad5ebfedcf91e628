# Deno itself, and so V8: its own compiler makes code at run time.
export NO_COLOR=1 DENO_DIR=/tmp/deno DENO_NO_UPDATE_CHECK=1
deno --version
deno run -A --quiet /mnt/checks/deno_check.js "$1"
