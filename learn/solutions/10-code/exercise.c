int new_call(uint64_t site, uint64_t target, uint32_t *word) {
    int64_t distance = target - (site + 5);
    if ((site + 1) % 8 > 4 || distance != (int32_t)distance) return 0;
    *word = distance;
    return 1;
}
