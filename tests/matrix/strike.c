/*
 * Runs a command and strikes at one of its system calls: kills it there, or has the call fail.
 *
 *   strike LOG BASE none -- COMMAND...
 *   strike LOG BASE kill|ERRNO NAME COUNT -- COMMAND...
 *
 * A call is named by what it does: "fsync ~/state/certificates/site/.certkeep-state-*", with ~
 * for BASE, * for what is random, and # for a running number. COUNT says which of the calls of this
 * name, over all threads. The strike comes when the call is made, before the kernel does it.
 *
 * `strace --inject` counts each thread by itself: with `when=3`, the thread that is first to make
 * a third call ends all of them, and the third calls of the others are never struck. A name and
 * a count mean the same call in each run, whatever the threads do beside each other.
 *
 * LOG gets a line for each named call, in their order, and "struck" where the strike was.
 * Children of the command are followed up to their execve, which counts as the command's own.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum shape {
    FD,          /* (fd, ...) */
    AT,          /* (dirfd, path, ...) */
    AT_AT,       /* (dirfd, path, dirfd, path, ...) */
    TEXT_AT,     /* (text, dirfd, path) */
    OPEN,        /* (path, flags, ...) */
    OPEN_AT,     /* (dirfd, path, flags, ...) */
    EXEC,        /* (path, ...) */
    PLAIN,       /* nothing to name */
    CLONE_FLAGS, /* (flags, ...) */
    CLONE_ARGS,  /* (struct clone_args *, ...) */
};

static const struct call {
    long number;
    const char *name;
    enum shape shape;
} calls[] = {
    {SYS_openat, "openat", OPEN_AT},
    {SYS_write, "write", FD},
    {SYS_writev, "write", FD},
    {SYS_pwrite64, "pwrite64", FD},
    {SYS_fsync, "fsync", FD},
    {SYS_fdatasync, "fdatasync", FD},
    {SYS_ftruncate, "ftruncate", FD},
    {SYS_fallocate, "fallocate", FD},
    {SYS_fchmod, "fchmod", FD},
    {SYS_fchown, "fchown", FD},
    {SYS_fsetxattr, "fsetxattr", FD},
    {SYS_flock, "flock", FD},
    {SYS_mkdirat, "mkdirat", AT},
    {SYS_unlinkat, "unlinkat", AT},
    {SYS_fchownat, "fchownat", AT},
    {SYS_fchmodat, "fchmodat", AT},
    {SYS_utimensat, "utimensat", AT},
    {SYS_symlinkat, "symlinkat", TEXT_AT},
    {SYS_linkat, "linkat", AT_AT},
    {SYS_renameat, "renameat", AT_AT},
    {SYS_renameat2, "renameat", AT_AT},
#ifdef SYS_open
    {SYS_open, "openat", OPEN},
    {SYS_rename, "rename", PLAIN},
    {SYS_unlink, "unlink", PLAIN},
    {SYS_mkdir, "mkdir", PLAIN},
    {SYS_rmdir, "rmdir", PLAIN},
    {SYS_chmod, "chmod", PLAIN},
    {SYS_fork, "fork", PLAIN},
    {SYS_vfork, "fork", PLAIN},
#endif
    {SYS_socket, "socket", PLAIN},
    {SYS_socketpair, "socketpair", PLAIN},
    {SYS_bind, "bind", FD},
    {SYS_listen, "listen", FD},
    {SYS_accept4, "accept4", FD},
    {SYS_connect, "connect", FD},
    {SYS_sendto, "sendto", FD},
    {SYS_sendmsg, "sendmsg", FD},
    {SYS_recvfrom, "recvfrom", FD},
    {SYS_recvmsg, "recvmsg", FD},
    {SYS_shutdown, "shutdown", FD},
    {SYS_execve, "execve", EXEC},
    {SYS_clone, "clone", CLONE_FLAGS},
    {SYS_clone3, "clone", CLONE_ARGS},
};

struct seen {
    char *name;
    unsigned count;
};

static struct seen seen[16384];
static size_t names;
static FILE *logged;
static const char *base;
static pid_t command;
static int refusing; /* the thread whose call is about to fail */

static void die(const char *what) {
    fprintf(stderr, "strike: %s: %s\n", what, strerror(errno));
    exit(125);
}

/* A string of the tracee, or of one whose memory is gone: "" */
static void text_of(pid_t thread, uint64_t address, char *text, size_t room) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", thread);
    int memory = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = memory < 0 ? -1 : pread(memory, text, room - 1, (off_t)address);
    /* A short string may stand at the end of the last page that can be read. */
    for (size_t less = room / 2; got < 0 && memory >= 0 && less > 16; less /= 2)
        got = pread(memory, text, less, (off_t)address);
    if (memory >= 0)
        close(memory);
    text[got < 0 ? 0 : got] = '\0';
}

static void place_of(pid_t thread, int fd, char *place, size_t room) {
    char path[64];
    if (fd == AT_FDCWD)
        snprintf(path, sizeof path, "/proc/%d/cwd", thread);
    else
        snprintf(path, sizeof path, "/proc/%d/fd/%d", thread, fd);
    ssize_t got = readlink(path, place, room - 1);
    place[got < 0 ? 0 : got] = '\0';
    /* Of what has a number instead of a path, the kind is enough. */
    char *number = strstr(place, ":[");
    if (number && place[0] != '/' && number[2] >= '0' && number[2] <= '9')
        *number = '\0';
    /* A file that was unlinked or replaced, and O_TMPFILE. */
    char *deleted = strstr(place, "/#");
    if (deleted)
        strcpy(deleted, "/nameless");
}

static void entry_of(pid_t thread, int fd, uint64_t address, char *entry, size_t room) {
    char place[PATH_MAX], name[PATH_MAX];
    text_of(thread, address, name, sizeof name);
    if (name[0] == '/') {
        snprintf(entry, room, "%s", name);
        return;
    }
    place_of(thread, fd, place, sizeof place);
    snprintf(entry, room, "%s/%s", place, name);
}

/* ~ for BASE, * for what is random or differs between hosts, # for a running number */
static void plain(char *name) {
    size_t length = strlen(base);
    for (char *at = name; length && (at = strstr(at, base));) {
        *at++ = '~';
        memmove(at, at + length - 1, strlen(at + length - 1) + 1);
    }
    char *to = name;
    for (char *from = name; *from;) {
        size_t hex = strspn(from, "0123456789abcdef"), decimal = strspn(from, "0123456789");
        int address = 0;
        if (decimal)
            sscanf(from, "%*3u.%*3u.%*3u.%*3u%n", &address);
        if (address || hex == 8 || hex == 12 || hex == 16) {
            *to++ = '*';
            from += address ? (size_t)address : hex;
        } else if (decimal == 6 && hex == 6) {
            *to++ = '#';
            from += decimal;
        } else {
            size_t whole = hex ? hex : 1;
            memmove(to, from, whole);
            to += whole;
            from += whole;
        }
    }
    *to = '\0';
}

/* What a call does; false: it is none of those that are named */
static int describe(pid_t thread, const struct __ptrace_syscall_info *info, char *name, size_t room) {
    const __typeof__(info->entry.args[0]) *with = info->entry.args;
    const struct call *call = NULL;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if ((uint64_t)calls[i].number == info->entry.nr)
            call = &calls[i];
    if (!call)
        return 0;
    char one[PATH_MAX * 2] = "", other[PATH_MAX * 2] = "";
    const char *what = call->name;
    switch (call->shape) {
    case FD:
        place_of(thread, (int)with[0], one, sizeof one);
        /* Threads wake each other with these. */
        if (strncmp(one, "anon_inode", 10) == 0)
            return 0;
        break;
    case AT:
        entry_of(thread, (int)with[0], with[1], one, sizeof one);
        break;
    case AT_AT:
        entry_of(thread, (int)with[0], with[1], one, sizeof one);
        entry_of(thread, (int)with[2], with[3], other, sizeof other);
        break;
    case TEXT_AT:
        entry_of(thread, (int)with[1], with[2], one, sizeof one);
        break;
    case OPEN:
    case OPEN_AT: {
        int is_at = call->shape == OPEN_AT, flags = (int)with[is_at ? 2 : 1];
        int changes = O_CREAT | O_TRUNC | O_WRONLY | O_RDWR;
        /* A step on the way to something. */
        if (flags & O_PATH)
            return 0;
        entry_of(thread, is_at ? (int)with[0] : AT_FDCWD, with[is_at], one, sizeof one);
        what = flags & changes ? "openat" : "openat-to-read";
        break;
    }
    case EXEC:
        text_of(thread, with[0], one, sizeof one);
        break;
    case CLONE_FLAGS:
        if (with[0] & CLONE_THREAD)
            return 0;
        break;
    case CLONE_ARGS: {
        struct clone_args arguments = {0};
        char raw[sizeof arguments + 1];
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/mem", thread);
        int memory = open(path, O_RDONLY | O_CLOEXEC);
        if (memory >= 0 && pread(memory, raw, sizeof arguments.flags, (off_t)with[0]) > 0)
            memcpy(&arguments.flags, raw, sizeof arguments.flags);
        if (memory >= 0)
            close(memory);
        if (arguments.flags & CLONE_THREAD)
            return 0;
        break;
    }
    case PLAIN:
        break;
    }
    snprintf(name, room, "%s%s%s%s%s", what, *one ? " " : "", one, *other ? " " : "", other);
    plain(name);
    return 1;
}

/* Which call of this name it is */
static unsigned counted(const char *name) {
    for (size_t i = 0; i < names; i++)
        if (strcmp(seen[i].name, name) == 0)
            return ++seen[i].count;
    if (names == sizeof seen / sizeof *seen)
        exit(124);
    seen[names] = (struct seen){strdup(name), 1};
    return seen[names++].count;
}

/* Have the kernel do nothing instead of the call */
static void skip(pid_t thread) {
#if defined(__x86_64__)
    long at = offsetof(struct user_regs_struct, orig_rax);
    ptrace(PTRACE_POKEUSER, thread, (void *)at, (void *)-1L);
#elif defined(__aarch64__)
    int none = -1;
    struct iovec vector = {&none, sizeof none};
    ptrace(PTRACE_SETREGSET, thread, (void *)NT_ARM_SYSTEM_CALL, &vector);
#else
#error "where are the system call's number and its result?"
#endif
}

static void answer(pid_t thread, long result) {
#if defined(__x86_64__)
    long at = offsetof(struct user_regs_struct, rax);
    ptrace(PTRACE_POKEUSER, thread, (void *)at, (void *)result);
#elif defined(__aarch64__)
    struct user_regs_struct registers;
    struct iovec vector = {&registers, sizeof registers};
    ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &vector);
    registers.regs[0] = (unsigned long)result;
    ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &vector);
#endif
}

int main(int count, char **words) {
    int strikes = count > 3 && strcmp(words[3], "none") != 0;
    int first = strikes ? 7 : 5;
    if (count <= first || strcmp(words[first - 1], "--") != 0) {
        fprintf(stderr, "usage: strike LOG BASE none|kill|ERRNO [NAME COUNT] -- COMMAND...\n");
        return 125;
    }
    logged = fopen(words[1], "we");
    if (!logged)
        die(words[1]);
    base = words[2];
    int kills = strcmp(words[3], "kill") == 0;
    int error = strikes && !kills ? atoi(words[3]) : 0;
    const char *target = strikes ? words[4] : "";
    unsigned which = strikes ? (unsigned)atoi(words[5]) : 0;

    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0)
        die("pipe");
    command = fork();
    if (command < 0)
        die("fork");
    if (command == 0) {
        char go;
        close(gate[1]);
        if (read(gate[0], &go, 1) != 1)
            _exit(125);
        execv(words[first], words + first);
        die(words[first]);
    }
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, command, NULL, (void *)options) < 0)
        die("ptrace");
    if (write(gate[1], "!", 1) != 1)
        die("start");

    int started = 0, result = 125;
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        if (!WIFSTOPPED(status)) {
            if (thread == command)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, pass = 0;
        if (event == PTRACE_EVENT_EXEC) {
            if (thread == command) {
                started = 1;
            } else {
                ptrace(PTRACE_DETACH, thread, NULL, NULL);
                continue;
            }
        } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
            ptrace(PTRACE_LISTEN, thread, NULL, NULL);
            continue;
        } else if (event == 0 && signal == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info;
            memset(&info, 0, sizeof info);
            ptrace(PTRACE_GET_SYSCALL_INFO, thread, (void *)sizeof info, &info);
            char name[PATH_MAX * 5];
            if (info.op == PTRACE_SYSCALL_INFO_EXIT && refusing == thread) {
                answer(thread, -(long)error);
                refusing = 0;
            } else if (started && info.op == PTRACE_SYSCALL_INFO_ENTRY &&
                       describe(thread, &info, name, sizeof name)) {
                unsigned number = counted(name);
                fprintf(logged, "%s\n", name);
                if (number == which && strcmp(name, target) == 0) {
                    fprintf(logged, "struck\n");
                    if (kills) {
                        kill(command, SIGKILL);
                    } else {
                        skip(thread);
                        refusing = thread;
                    }
                }
            }
        } else if (event == 0) {
            pass = signal;
        }
        if (ptrace(PTRACE_SYSCALL, thread, NULL, (void *)(long)pass) < 0 && errno != ESRCH)
            die("go on");
    }
    if (fclose(logged) != 0)
        die(words[1]);
    return result;
}
