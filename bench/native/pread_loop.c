/* Random vectored reads or writes: pread_loop FILE r|w BYTES PIECES COUNT SPAN -> nanoseconds a call. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    int fd = open(argv[1], O_RDWR);
    if (fd < 0) return 1;
    int writing = argv[2][0] == 'w';
    long bytes = atol(argv[3]), pieces = atol(argv[4]), count = atol(argv[5]), slots = atol(argv[6]) / bytes;
    char *memory = malloc(bytes * 2);
    memset(memory, 1, bytes * 2);
    struct iovec iov[64];
    unsigned seed = 1;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        off_t offset = (off_t)((seed >> 8) % slots) * bytes;
        for (long p = 0; p < pieces; p++) {
            iov[p].iov_base = memory + p * 2 * (bytes / pieces);
            iov[p].iov_len = bytes / pieces;
        }
        long n = writing ? pwritev(fd, iov, pieces, offset) : preadv(fd, iov, pieces, offset);
        if (n != bytes) return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / count);
    return 0;
}
