#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include EXERCISE
static int wrong;
__attribute__((noinline)) void caller(int size) {
    volatile char room[size]; // a frame whose size the compiler does not know
    room[0] = room[size - 1] = 1;
    long want = (char *)__builtin_frame_address(0) - (char *)__builtin_frame_address(0);
    long got = distance();
    static long last; static int last_size;
    want = size - last_size; // frames grow by what is put on them
    if (got <= size) { printf("distance() is %ld in a frame of more than %d bytes\n", got, size); wrong = 1; }
    if (last_size && got - last != want) { printf("%d more bytes make %ld more\n", (int)want, got - last); wrong = 1; }
    last = got; last_size = size; (void)room[0];
}
int main(void) { caller(160); caller(1600); caller(16000); return wrong; }
