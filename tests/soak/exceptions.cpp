// C++ frames that exceptions are thrown through. Each frame calls `step` when the exception leaves
// it.

using Step = void (*)(void *);

namespace {

struct Frame {
    Step step;
    void *argument;
    ~Frame() { step(argument); }
};

__attribute__((noinline)) void down(int depth, Step inner, Step step, void *argument) {
    Frame frame{step, argument};
    if (depth > 0)
        down(depth - 1, inner, step, argument);
    else
        inner(argument);
}

} // namespace

extern "C" void soak_throw(void *) { throw 7; }

// Calls `inner`, which throws, from so many frames further in, and catches here. Returns the value
// that was thrown.
extern "C" int soak_catch(int depth, Step inner, Step step, void *argument) {
    try {
        down(depth, inner, step, argument);
    } catch (int thrown) {
        return thrown;
    }
    return 0;
}
