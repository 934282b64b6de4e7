#include <stdint.h>
#include <stdio.h>
#include EXERCISE
// push %rbp; mov %rsp, %rbp; pop %rbp; ret
static const uint8_t table[] = {0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x41, 0x0c, 7, 8, 0xc6};
static const int want[][4] = {{0, 7, 8, 0}, {1, 7, 16, 2}, {3, 7, 16, 2}, {4, 6, 16, 2}, {5, 7, 8, 0}};
int main(void) {
    int wrong = 0;
    for (int i = 0; i < 5; i++) {
        struct row row = {7, 8, {0}};
        row_at(table, table + sizeof table, want[i][0], &row);
        if (row.cfa_register != want[i][1] || row.cfa_offset != want[i][2] || row.saved[6] != want[i][3]) {
            printf("at +%d: CFA is r%d + %d, rbp at CFA - 8 * %d\n", want[i][0], row.cfa_register,
                   row.cfa_offset, row.saved[6]);
            wrong = 1;
        }
    }
    return wrong;
}
