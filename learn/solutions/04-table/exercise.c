struct row { int cfa_register, cfa_offset, saved[17]; };

void row_at(const uint8_t *p, const uint8_t *end, int offset, struct row *row) {
    int at = 0;
    while (p < end) {
        int op = *p++, low = op & 0x3f;
        if (op >> 6 == 1) {
            at += low;
            if (at > offset) return;
        } else if (op >> 6 == 2) row->saved[low] = *p++;
        else if (op >> 6 == 3) row->saved[low] = 0;
        else if (op == 0x0c) row->cfa_register = p[0], row->cfa_offset = p[1], p += 2;
        else if (op == 0x0d) row->cfa_register = *p++;
        else if (op == 0x0e) row->cfa_offset = *p++;
    }
}
