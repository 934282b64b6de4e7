// A plugin whose one function has a frame of FRAME bytes, and calls back from it.
// tests/hot_reload.rs builds it in several sizes.
void plugin_run(void (*callback)(void));

void plugin_run(void (*callback)(void)) {
    volatile char frame[FRAME];
    frame[0] = 1;
    callback();
    frame[FRAME - 1] = frame[0];
}
