// Reads an unwind table: its CIE, its FDE, its rows. cc -g -rdynamic 04-table.c -pthread (x86_64)
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bases { void *text, *data, *function; }; // libgcc's struct dwarf_eh_bases
extern const uint8_t *_Unwind_Find_FDE(void *address, struct bases *); // libgcc's look-up
extern char framed[], last[], next[];
__asm__(".pushsection .text\n"
        ".globl framed, last, next\n"
        "framed:\n"
        ".cfi_startproc\n"
        "  push %rbp\n"
        "  .cfi_def_cfa_offset 16\n" // the CFA is 16 above rsp now
        "  .cfi_offset %rbp, -16\n"  // the caller's rbp is at CFA - 16
        "  mov %rsp, %rbp\n"
        "  .cfi_def_cfa_register %rbp\n"
        "  pop %rbp\n"
        "  .cfi_def_cfa %rsp, 8\n"
        "  .cfi_restore %rbp\n"
        "  ret\n"
        ".cfi_endproc\n"
        "last:\n"
        ".cfi_startproc\n"
        "  sub $8, %rsp\n"
        "  .cfi_def_cfa_offset 16\n"
        "  call never_returns\n" // the last instruction of this function
        ".cfi_endproc\n"
        "next:\n"                // the call's return address: another function's first byte
        ".cfi_startproc\n"
        "  ret\n"
        ".cfi_endproc\n"
        ".popsection");

// DWARF's numbers of variable length, LEB128: seven bits a byte, and the highest bit says that more follows.
static unsigned long uleb(const uint8_t **p) { // unsigned; `sleb` is signed
    unsigned long value = 0;
    int shift = 0;
    do value |= (unsigned long)(**p & 0x7f) << shift, shift += 7; while (*(*p)++ & 0x80);
    return value;
}
static long sleb(const uint8_t **p) {
    const uint8_t *begin = *p;
    unsigned long value = uleb(p);
    int bits = 7 * (*p - begin);
    return (*p)[-1] & 0x40 ? (long)(value - (1UL << bits)) : (long)value;
}
static const uint8_t *skip(const uint8_t *p) { unsigned long n = uleb(&p); return p + n; } // a length, then bytes
static const char *name(int column) { return column == 6 ? "rbp" : column == 7 ? "rsp" : column == 16 ? "ra" : "?"; }

static int cfa_register, cfa_offset, at, saved[17]; // the row; 0: not saved
static void print_row(void) {
    printf("  +%d  CFA = %s%+d ", at, name(cfa_register), cfa_offset);
    for (int i = 0; i < 17; i++) if (saved[i]) printf("  %s at CFA%+d", name(i), saved[i]);
    printf("\n");
}
static void run(const uint8_t *p, const uint8_t *end, int data, int rows) {
    while (p < end) {
        int op = *p++, low = op & 0x3f;
        if (op >> 6 == 1) { if (rows) print_row(); at += low; }                // advance_loc
        else if (op >> 6 == 2) saved[low] = (int)uleb(&p) * data;        // offset
        else if (op >> 6 == 3) saved[low] = 0;                                 // restore
        else if (op == 0x0c) cfa_register = uleb(&p), cfa_offset = uleb(&p);   // def_cfa
        else if (op == 0x0d) cfa_register = uleb(&p);                          // def_cfa_register
        else if (op == 0x0e) cfa_offset = uleb(&p);                            // def_cfa_offset
        else if (op != 0) { printf("  operation %#x\n", op); exit(1); }        // 0: nop
    }
    if (rows) print_row();
}
static void print_table(void *address) {
    struct bases bases;
    const uint8_t *fde = _Unwind_Find_FDE(address, &bases);
    const uint8_t *fde_end = fde + 4 + *(uint32_t *)fde;
    const uint8_t *cie = fde + 4 - *(uint32_t *)(fde + 4); // a distance backwards
    const uint8_t *cie_end = cie + 4 + *(uint32_t *)cie, *p = cie + 9;
    printf("CIE: version %d, augmentation \"%s\"", cie[8], (char *)p);
    p += strlen((char *)p) + 1;
    unsigned long code = uleb(&p);
    long data = sleb(&p);
    printf(", code alignment %lu, data alignment %ld, return address in column %lu\n", code, data, uleb(&p));
    p = skip(p); // the augmentation's data: how addresses are encoded in FDEs
    run(p, cie_end, data, 0);
    printf("FDE: %u bytes of code\n", *(uint32_t *)(fde + 12));
    p = skip(fde + 16); // the FDE's own augmentation data: none
    run(p, fde_end, data, 1);
}
static const char *function(char *address) { // whose FDE covers this byte
    struct bases bases;
    if (!_Unwind_Find_FDE(address, &bases)) return "no function";
    return bases.function == last ? "last" : bases.function == next ? "next" : "another";
}
void never_returns(void) {
    char *address = __builtin_return_address(0);
    printf("a call in `last` returns to an address in `%s`; the byte before it is in `%s`\n", function(address),
           function(address - 1));
    exit(0);
}
int main(void) { print_table(framed); ((void (*)(void))last)(); }
