/* Fails allocations of one process: preloaded, it stands before malloc(3) and its kin. `tests.proofs.memory`
 * writes into the page that it shares which process, and which of its allocations from now on. With
 * PYTHONMALLOC=malloc, all memory of Python's objects comes through here, too, and so does that of all
 * libraries. What the C library takes by itself from the kernel (stacks of threads) does not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

struct page {
    uint64_t pid;    /* whose allocations are counted */
    uint64_t first;  /* the first that fails, 1 is the next one */
    uint64_t last;   /* the last that fails; 0: none does */
    uint64_t count;  /* how many there were */
    uint64_t failed; /* how many have failed */
};

static volatile struct page *page;
static void (*dump)(int, void *);
static const char *(*dump_threads)(int, void *, void *);
static void *(*this_thread)(void);

static void said(int number)
{
    int before = errno;
    if (dump_threads)
        dump_threads(2, NULL, NULL);
    errno = before;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("IMGSTORE_NO_MEMORY");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found == MAP_FAILED)
        return;
    dump = (void (*)(int, void *))dlsym(RTLD_DEFAULT, "_Py_DumpTraceback");
    dump_threads = (const char *(*)(int, void *, void *))dlsym(RTLD_DEFAULT, "_Py_DumpTracebackThreads");
    this_thread = (void *(*)(void))dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
    struct sigaction action = {.sa_handler = said, .sa_flags = SA_RESTART};
    sigaction(SIGRTMIN + 5, &action, NULL);
    page = found;
}

static int fails(void)
{
    if (!page || !page->last || page->pid != (uint64_t)getpid())
        return 0;
    uint64_t number = __atomic_add_fetch(&page->count, 1, __ATOMIC_RELAXED);
    if (number < page->first || number > page->last)
        return 0;
    if (__atomic_add_fetch(&page->failed, 1, __ATOMIC_RELAXED) == 1 && dump && this_thread) {
        void *thread = this_thread();
        if (thread)
            dump(2, thread);
    }
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t number, size_t size)
{
    return fails() ? NULL : __libc_calloc(number, size);
}

void *realloc(void *before, size_t size)
{
    return fails() ? NULL : __libc_realloc(before, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **result, size_t alignment, size_t size)
{
    if (fails())
        return ENOMEM;
    void *found = __libc_memalign(alignment, size);
    if (!found)
        return ENOMEM;
    *result = found;
    return 0;
}
