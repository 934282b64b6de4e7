// A shadow stack in software: single-steps a child, keeps a copy of each return address that a call
// pushes, and compares at each ret. cc -g -fno-omit-frame-pointer 12-shadow.c (x86_64)
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct frame { struct frame *caller; uintptr_t return_address; };
uintptr_t original;
static volatile int drained;
extern char trampoline[], exit_code[], exit_label[], site[], hook[];
void drain(void) { drained = 1; }
void finish(void) {}
// exit_code stands for libc's exit trampoline: it calls the entry function, and then `finish`.
__asm__(".pushsection .text\n.balign 16\n"
        "exit_code: sub $8, %rsp\n"
        "  call *%rdi\n"
        "exit_label: nop; nop; nop; nop; nop\n"
        "site: call finish\n"
        "  add $8, %rsp\n ret\n"
        "trampoline: push original(%rip); push %rax; call drain; pop %rax; ret\n"
        "hook: sub $8, %rsp; call drain; add $8, %rsp; jmp finish\n"
        ".popsection");

static enum { NOTHING, SLOT, CODE } how;
__attribute__((noinline)) void entry(void) {
    struct frame *frame = __builtin_frame_address(0);
    if (frame->return_address != (uintptr_t)exit_label) return; // chapter 2's check
    if (how == SLOT) { // the return address
        original = frame->return_address;
        *(volatile uintptr_t *)&frame->return_address = (uintptr_t)trampoline;
    }
    if (how == CODE) { // the code that it leads to
        char *page = (char *)((uintptr_t)site & -4096UL);
        mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
        *(volatile int32_t *)(site + 1) = hook - (site + 5);
    }
}

static const char *place(uint64_t address) {
    if (address == (uintptr_t)trampoline) return "the trampoline";
    return address == (uintptr_t)exit_label ? "the exit code" : "elsewhere";
}
static void step_through(pid_t child) {
    static uint64_t shadow[4096];
    int depth = 0, status;
    long returns = 0, mismatches = 0;
    struct user_regs_struct registers;
    enum { OTHER, CALL, RET } last = OTHER;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        ptrace(PTRACE_GETREGS, child, 0, &registers);
        if (last == CALL) shadow[depth++] = ptrace(PTRACE_PEEKDATA, child, registers.rsp, 0);
        if (last == RET && depth > 0) {
            uint64_t want = shadow[--depth];
            returns++;
            if (want != registers.rip) {
                mismatches++;
                printf("  a ret leads to %s; the shadow stack says %s\n", place(registers.rip), place(want));
            }
        }
        uint64_t word = ptrace(PTRACE_PEEKTEXT, child, registers.rip, 0);
        uint8_t code[8], *p = code;
        memcpy(code, &word, 8);
        while (*p == 0xf2 || *p == 0xf3 || *p == 0x3e || (*p & 0xf0) == 0x40) p++; // prefixes
        last = *p == 0xe8 || (*p == 0xff && (p[1] & 0x38) == 0x10) ? CALL : *p == 0xc3 || *p == 0xc2 ? RET : OTHER;
        ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    }
    printf("  returns compared: %s, mismatches: %ld, drained: %s\n", returns > 2 ? "some" : "none", mismatches,
           WIFEXITED(status) && WEXITSTATUS(status) == 1 ? "yes" : "no");
}
int main(void) {
    const char *names[] = {"no redirect:", "slot redirect:", "code redirect:"};
    for (how = NOTHING; how <= CODE; how++) {
        printf("%s\n", names[how]);
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            ptrace(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGSTOP);
            ((void (*)(void (*)(void)))exit_code)(entry);
            _exit(drained);
        }
        step_through(child);
    }
    return 0;
}
