// Answers for the cpuid instructions that held.py has replaced: what this CPU says, less AVX-512, VNNI and AMX. So a
// library that asks the CPU alone, and no variable, can be measured as on a CPU that has AVX2 and no more.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

static const uint8_t stand_in[2] = {0x06, 0xa2};  // no instruction in 64-bit mode; cpuid is 0f a2

static void answer(int number, siginfo_t* info, void* context) {
    (void)info;
    greg_t* regs = ((ucontext_t*)context)->uc_mcontext.gregs;
    if (memcmp((const void*)regs[REG_RIP], stand_in, sizeof stand_in) != 0) {
        signal(number, SIG_DFL);  // the instruction runs again, and ends the program
        return;
    }
    const uint32_t leaf = (uint32_t)regs[REG_RAX], sub = (uint32_t)regs[REG_RCX];
    uint32_t a, b, c, d;
    __cpuid_count(leaf, sub, a, b, c, d);
    if (leaf == 7 && sub == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    }
    if (leaf == 7 && sub == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);
        d &= ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19);
    }
    regs[REG_RAX] = a;
    regs[REG_RBX] = b;
    regs[REG_RCX] = c;
    regs[REG_RDX] = d;
    regs[REG_RIP] += sizeof stand_in;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, 0);
}
