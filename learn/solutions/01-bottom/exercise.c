struct frame { struct frame *caller; uintptr_t return_address; };

__attribute__((noinline)) long distance(void) {
    struct frame *mine = __builtin_frame_address(0);
    return (char *)&mine->caller->return_address - (char *)&mine->return_address;
}
