struct shadow { int depth; struct { uintptr_t at, address; } entry[64]; };

static void leave(struct shadow *s, uintptr_t at) { // frames below `at` are gone
    while (s->depth && s->entry[s->depth - 1].at < at) s->depth--;
}
int at_call(struct shadow *s, uintptr_t at, uintptr_t address) {
    leave(s, at + 1); // a word at the same place belongs to a frame that is gone as well
    s->entry[s->depth].at = at;
    s->entry[s->depth++].address = address;
    return 0;
}
int at_return(struct shadow *s, uintptr_t at, uintptr_t address) {
    leave(s, at);
    if (!s->depth || s->entry[s->depth - 1].at != at) return 1;
    return s->entry[--s->depth].address != address;
}
