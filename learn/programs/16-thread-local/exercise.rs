// Exercise: `bump` is called before and after a switch between threads. Make it count on the thread
// that runs it, in optimised programs too.
#[inline(always)]
fn bump() {
    COUNT.with(add); // yours
}
