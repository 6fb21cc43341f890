/*
 * Stops in a server under test: preloaded into its processes, it counts what one of them does to files under two
 * directories, and holds it at the n-th of these calls, before that is done, or lets that one fail. A file that the test
 * has mapped says which and when, and what was seen.
 *
 * Half of what a write was to write is written before it is held: nothing forbids that.
 *
 * All functions here may be called in a signal handler: they call the kernel and nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As in stops.rs. */
struct control
{
    int32_t armed;
    int32_t pid;    /* whose calls count; 0: of whom `title` is in the title */
    int32_t left;   /* how many calls are still let through */
    int32_t fault;  /* the errno with which the next ones fail; 0: the next one is held */
    int32_t held;   /* the process that is held */
    int32_t go;     /* it goes on */
    int32_t seen;   /* how many bytes of `calls` are used */
    char title[36];
    char under[2][256];
    char calls[65536];
};

static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("PROCESS_STOPS");
    int file = path ? (int) syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    void *map;

    if (file < 0)
        return;
    map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED)
        control = map;
    syscall(SYS_close, file);
}

static int is_meant(void)
{
    char title[256];
    long length;
    int file;

    if (control->pid != 0)
        return control->pid == (int32_t) syscall(SYS_getpid);
    file = (int) syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return 0;
    length = syscall(SYS_read, file, title, sizeof title - 1);
    syscall(SYS_close, file);
    if (length < 0)
        return 0;
    title[length] = '\0';
    return strstr(title, control->title) != NULL;
}

/* The path of an open file, or of `name` in an open directory. */
static void find_path(char *path, size_t size, int file, const char *name)
{
    char link[32] = "/proc/self/fd/";
    char digits[12];
    int count = 0;
    size_t end = strlen(link);
    long length = 0;

    if (name == NULL || (name[0] != '/' && file != AT_FDCWD))
    {
        do
            digits[count++] = (char) ('0' + file % 10);
        while ((file /= 10) > 0);
        while (count > 0)
            link[end++] = digits[--count];
        link[end] = '\0';
        length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size / 2);
        if (length < 0)
            length = 0;
        if (name != NULL)
            path[length++] = '/';
    }
    path[length] = '\0';
    if (name != NULL)
        strncat(path, name, size - 1 - (size_t) length);
}

static void note(const char *call, const char *path)
{
    size_t call_length = strlen(call), path_length = strlen(path);
    int32_t length = (int32_t) (call_length + path_length + 2);
    int32_t at = __atomic_fetch_add(&control->seen, length, __ATOMIC_SEQ_CST);
    char *line = control->calls + at;

    if (at + length > (int32_t) sizeof control->calls)
        return;
    memcpy(line, call, call_length);
    line[call_length] = ' ';
    memcpy(line + call_length + 1, path, path_length);
    line[length - 1] = '\n';
}

/* What becomes of a call. */
enum fate
{
    DONE,
    FAILS,
    HELD
};

static enum fate fate_of(const char *call, int file, const char *name)
{
    char path[1024];
    int32_t left;

    if (control == NULL || !__atomic_load_n(&control->armed, __ATOMIC_SEQ_CST))
        return DONE;
    find_path(path, sizeof path, file, name);
    if (!(control->under[0][0] && strstr(path, control->under[0]))
        && !(control->under[1][0] && strstr(path, control->under[1])))
        return DONE;
    if (!is_meant())
        return DONE;
    note(call, path);
    left = __atomic_fetch_sub(&control->left, 1, __ATOMIC_SEQ_CST);
    if (left > 0)
        return DONE;
    if (control->fault != 0)
    {
        errno = control->fault;
        return FAILS;
    }
    return left == 0 ? HELD : DONE;
}

static void hold(void)
{
    struct timespec pause = {0, 2000000};

    __atomic_store_n(&control->held, (int32_t) syscall(SYS_getpid), __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&control->go, __ATOMIC_SEQ_CST))
        syscall(SYS_nanosleep, &pause, NULL);
}

/* The call is made, fails, or is held and then made. */
#define UNLESS_STOPPED(call, file, name, made) \
    switch (fate_of(call, file, name)) \
    { \
        case FAILS: \
            return -1; \
        case HELD: \
            hold(); \
            break; \
        case DONE: \
            break; \
    } \
    return made

static int open_at(int directory, const char *name, int flags, int mode)
{
    const char *call = flags & O_CREAT ? "create" : flags & O_DIRECTORY ? "opendir" : "open";

    UNLESS_STOPPED(call, directory, name, (int) syscall(SYS_openat, directory, name, flags, mode));
}

#define MODE_OF(flags) \
    int mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) \
    { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, int); \
        va_end(more); \
    }

int open(const char *name, int flags, ...)
{
    MODE_OF(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    MODE_OF(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int directory, const char *name, int flags, ...)
{
    MODE_OF(flags)
    return open_at(directory, name, flags, mode);
}

int openat64(int directory, const char *name, int flags, ...)
{
    MODE_OF(flags)
    return open_at(directory, name, flags, mode);
}

ssize_t write(int file, const void *bytes, size_t count)
{
    switch (fate_of("write", file, NULL))
    {
        case FAILS:
            return -1;
        case HELD:
            count = count > 1 ? count / 2 : count;
            count = (size_t) syscall(SYS_write, file, bytes, count);
            hold();
            return (ssize_t) count;
        case DONE:
            break;
    }
    return syscall(SYS_write, file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at)
{
    UNLESS_STOPPED("pwrite", file, NULL, syscall(SYS_pwrite64, file, bytes, count, at));
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at)
{
    UNLESS_STOPPED("pwrite", file, NULL, syscall(SYS_pwrite64, file, bytes, count, at));
}

int fsync(int file)
{
    UNLESS_STOPPED("fsync", file, NULL, (int) syscall(SYS_fsync, file));
}

int linkat(int from_directory, const char *from, int directory, const char *name, int flags)
{
    UNLESS_STOPPED("link", directory, name,
                   (int) syscall(SYS_linkat, from_directory, from, directory, name, flags));
}

int unlinkat(int directory, const char *name, int flags)
{
    UNLESS_STOPPED("unlink", directory, name, (int) syscall(SYS_unlinkat, directory, name, flags));
}
