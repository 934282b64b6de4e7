// The address is computed in a function of its own, at each call, and no caller can keep it.
#[inline(never)]
fn bump() {
    COUNT.with(add);
    std::hint::black_box(()); // so that this function is not taken apart
}
