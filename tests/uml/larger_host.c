/* A stand-in for a host whose CPU has 8 KiB more of extended state than this one, as AMX's tiles are.

   Preloaded below xstate.c it answers ptrace(2) as such a host's kernel does: a read gives the larger area, and a
   write of any smaller one is refused with EFAULT (arch/x86/kernel/fpu/regset.c). So what happens on such a CPU is
   tried on every CPU. Does not know: what the larger state means; its bytes are zero and are thrown away. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LARGEST = 1 << 16, MORE = 8192 };

/* The system call itself; a word that is peeked at comes back as libc's ptrace gives it. */
static long call(long request, pid_t pid, void *address, void *data)
{
    long word, result;
    if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER)
        return syscall(SYS_ptrace, request, pid, address, data);
    result = syscall(SYS_ptrace, request, pid, address, &word);
    if (result < 0)
        return result;
    errno = 0;
    return word;
}

long ptrace(enum __ptrace_request request, ...)
{
    static char whole[LARGEST] __attribute__((aligned(64)));
    static size_t real;
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);
    int is_set = request == PTRACE_SETREGSET;
    if ((!is_set && request != PTRACE_GETREGSET) || (unsigned long)address != NT_X86_XSTATE)
        return call(request, pid, address, data);

    struct iovec *asked = data, all = { whole, LARGEST };
    if (!is_set || !real) {
        long result = call(PTRACE_GETREGSET, pid, address, &all);
        if (result != 0)
            return result;
        real = all.iov_len;
    }
    size_t larger = real + MORE, most = asked->iov_len < larger ? asked->iov_len : larger;
    if (is_set) {
        if (asked->iov_len < larger) {
            errno = EFAULT;
            return -1;
        }
        struct iovec known = { asked->iov_base, real };
        return call(request, pid, address, &known);
    }
    memset(whole + real, 0, MORE);
    memcpy(asked->iov_base, whole, most);
    asked->iov_len = most;
    return 0;
}
