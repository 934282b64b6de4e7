// Exercise: the heart of an unwinder. Run the instructions from `p` to `end`, and stop at the row in
// force for the byte at `offset` from the function's beginning: an advance that leads past `offset`
// ends it. `row` holds the row of the first byte before the first instruction.
//   0x40 + n  advance n bytes      0x80 + r, n  register r is at CFA - 8 n     0xc0 + r  it is not saved
//   0x0c r n  CFA = r + n          0x0d r       CFA's register is r            0x0e n    CFA's offset is n
// All numbers are below 64, in one byte. `saved` is the n of each register, 0 where it is not saved.
struct row { int cfa_register, cfa_offset, saved[17]; };

void row_at(const uint8_t *p, const uint8_t *end, int offset, struct row *row) {
    (void)p, (void)end, (void)offset, (void)row; // yours
}
