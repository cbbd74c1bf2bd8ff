/* Between User-Mode-Linux and a host whose CPU has more extended state than it knows of (AMX: 11,008 bytes).

   The guest kernel hands its processes' FPU state to the host in an area of a fixed size (HOST_FP_SIZE in
   arch/x86/um/user-offsets.c: 2,696 bytes in 6.1 and 6.12). The host takes a whole area of its own size or answers
   EFAULT (xstateregs_set in arch/x86/kernel/fpu/regset.c), and the guest panics. This library, preloaded, stands
   where the guest calls ptrace(2): it writes the host's size, the guest's bytes first, the rest zero, which is the
   initial state of what the guest does not know (XSTATE_BV in the guest's own bytes says that it is not in use).

   Does not know: whether it is needed; guest.py asks `xstate_bytes`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGEST = 1 << 16 };

typedef long call(enum __ptrace_request, pid_t, void *, void *);

static char whole[LARGEST] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
    static call *next;
    static size_t host_bytes; /* one CPU, one size: asked for once */
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);
    if (!next)
        next = (call *)dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE) {
        struct iovec *given = data, all = { whole, LARGEST };
        if (!host_bytes && next(PTRACE_GETREGSET, pid, address, &all) == 0)
            host_bytes = all.iov_len;
        if (host_bytes > given->iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            memset(whole + given->iov_len, 0, host_bytes - given->iov_len);
            all.iov_len = host_bytes;
            return next(request, pid, address, &all);
        }
    }
    return next(request, pid, address, data);
}

/* How many bytes of extended state this host keeps for a process; 0 where it cannot be asked. */
long xstate_bytes(void)
{
    struct iovec all = { whole, LARGEST };
    int status;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 0;
    long answer = ptrace(PTRACE_GETREGSET, child, (void *)NT_X86_XSTATE, &all);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return answer == 0 ? (long)all.iov_len : 0;
}
