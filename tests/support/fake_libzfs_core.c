/*
 * libzfs_core as illumos exports it: usr/src/lib/libzfs_core/common/mapfile-vers, ILLUMOS_0.1 to 0.4, which
 * fake_libzfs_core.map repeats. What the binding must not call says so in the log, and fails.
 */
#include <errno.h>
#include <stdint.h>
#include <unistd.h>

typedef struct nvlist nvlist_t;
typedef enum { B_FALSE, B_TRUE } boolean_t;

extern int fake_number;
void fake_say(const char *, ...);
void fake_say_list(nvlist_t *);
void fake_give(nvlist_t **);

#define	OR_NULL(text)	((text) == NULL ? "(null)" : (text))

static int
ends(nvlist_t **result)
{
	if (result != NULL)
		fake_give(result);
	fake_say("\n");
	return (fake_number);
}

int
libzfs_core_init(void)
{
	fake_say("libzfs_core_init\n");
	return (fake_number >= 2000 ? fake_number - 2000 : 0);
}

static int
program(const char *name, const char *pool, const char *text, uint64_t instructions, uint64_t memory,
    nvlist_t *arguments, nvlist_t **result)
{
	fake_say("%s %s text:", name, pool);
	while (*text != '\0')
		fake_say("%02x", (unsigned char)*text++);
	fake_say(" %llu %llu", (unsigned long long)instructions, (unsigned long long)memory);
	fake_say_list(arguments);
	return (ends(result));
}

int
lzc_channel_program(const char *pool, const char *text, uint64_t instructions, uint64_t memory, nvlist_t *arguments,
    nvlist_t **result)
{
	return (program("lzc_channel_program", pool, text, instructions, memory, arguments, result));
}

int
lzc_channel_program_nosync(const char *pool, const char *text, uint64_t instructions, uint64_t memory,
    nvlist_t *arguments, nvlist_t **result)
{
	return (program("lzc_channel_program_nosync", pool, text, instructions, memory, arguments, result));
}

int
lzc_snapshot(nvlist_t *names, nvlist_t *properties, nvlist_t **errors)
{
	fake_say("lzc_snapshot");
	fake_say_list(names);
	fake_say_list(properties);
	return (ends(errors));
}

int
lzc_destroy_snaps(nvlist_t *names, boolean_t defer, nvlist_t **errors)
{
	fake_say("lzc_destroy_snaps %d", defer);
	fake_say_list(names);
	return (ends(errors));
}

int
lzc_hold(nvlist_t *holds, int cleanup_fd, nvlist_t **errors)
{
	fake_say("lzc_hold %d", cleanup_fd);
	fake_say_list(holds);
	return (ends(errors));
}

int
lzc_release(nvlist_t *holds, nvlist_t **errors)
{
	fake_say("lzc_release");
	fake_say_list(holds);
	return (ends(errors));
}

int
lzc_get_holds(const char *snapshot, nvlist_t **holds)
{
	fake_say("lzc_get_holds %s", snapshot);
	return (ends(holds));
}

int
lzc_clone(const char *filesystem, const char *origin, nvlist_t *properties)
{
	fake_say("lzc_clone %s %s", filesystem, origin);
	fake_say_list(properties);
	return (ends(NULL));
}

int
lzc_create(const char *filesystem, int type, nvlist_t *properties, uint8_t *key, unsigned int key_length)
{
	fake_say("lzc_create %s %d %s %u", filesystem, type, key == NULL ? "(null)" : "key", key_length);
	fake_say_list(properties);
	return (ends(NULL));
}

int
lzc_rename(const char *source, const char *target)
{
	fake_say("lzc_rename %s %s", source, target);
	return (ends(NULL));
}

int
lzc_rollback_to(const char *dataset, const char *snapshot)
{
	fake_say("lzc_rollback_to %s %s", dataset, snapshot);
	return (ends(NULL));
}

int
lzc_send(const char *snapshot, const char *from, int fd, int flags)
{
	fake_say("lzc_send %s %s %d", snapshot, OR_NULL(from), flags);
	if (write(fd, "a stream", 8) != 8)
		return (EIO);
	return (ends(NULL));
}

/* Reads up to the stream's end, as the kernel does. */
int
lzc_receive_resumable(const char *snapshot, nvlist_t *properties, const char *origin, boolean_t force, boolean_t raw,
    int fd)
{
	char buffer[256];
	ssize_t got;
	size_t size = 0;

	while ((got = read(fd, buffer, sizeof (buffer))) > 0)
		size += got;
	fake_say("lzc_receive_resumable %s %s %d %d %zu", snapshot, OR_NULL(origin), force, raw, size);
	fake_say_list(properties);
	return (ends(NULL));
}

#define	MUST_NOT(name)	int name(void) { fake_say(#name " must not be called\n"); return (ENOSYS); }
MUST_NOT(libzfs_core_fini)
MUST_NOT(lzc_bookmark)
MUST_NOT(lzc_change_key)
MUST_NOT(lzc_destroy)
MUST_NOT(lzc_destroy_bookmarks)
MUST_NOT(lzc_exists)
MUST_NOT(lzc_get_bookmarks)
MUST_NOT(lzc_initialize)
MUST_NOT(lzc_load_key)
MUST_NOT(lzc_pool_checkpoint)
MUST_NOT(lzc_pool_checkpoint_discard)
MUST_NOT(lzc_promote)
MUST_NOT(lzc_receive)
MUST_NOT(lzc_receive_with_header)
MUST_NOT(lzc_remap)
MUST_NOT(lzc_rollback)
MUST_NOT(lzc_send_resume)
MUST_NOT(lzc_send_space)
MUST_NOT(lzc_snaprange_space)
MUST_NOT(lzc_unload_key)
