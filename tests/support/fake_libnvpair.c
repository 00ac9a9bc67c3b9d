/*
 * libnvpair as far as the tests of the binding need it: a list is the bytes that it was unpacked from. It counts the
 * lists that are there, keeps a log of calls, and says what the next call of the fake libzfs_core does.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nvlist {
	size_t size;
	char bytes[];
} nvlist_t;

static char log_text[1 << 20];
static int live, unpacked_until_failure = -1;

int fake_number;
static char *fake_result;
static size_t fake_result_size;

int fake_live(void) { return (live); }
const char *fake_log(void) { return (log_text); }
void fake_unpack_fails_after(int lists) { unpacked_until_failure = lists; }

/* What the next call returns, and the packed list that it gives, or none where size is 0. */
void
fake_next(int number, const char *packed, size_t size)
{
	free(fake_result);
	fake_result = size ? memcpy(malloc(size), packed, size) : NULL;
	fake_result_size = size;
	fake_number = number;
	log_text[0] = '\0';
	unpacked_until_failure = -1;
}

void
fake_say(const char *format, ...)
{
	size_t used = strlen(log_text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(log_text + used, sizeof (log_text) - used, format, arguments);
	va_end(arguments);
}

void
fake_say_list(nvlist_t *list)
{
	fake_say(" list:");
	for (size_t at = 0; at < list->size; at++)
		fake_say("%02x", (unsigned char)list->bytes[at]);
}

static int
made(const char *bytes, size_t size, nvlist_t **list)
{
	*list = malloc(sizeof (nvlist_t) + size);
	(*list)->size = size;
	memcpy((*list)->bytes, bytes, size);
	live++;
	return (0);
}

void
fake_give(nvlist_t **result)
{
	if (fake_result != NULL)
		(void) made(fake_result, fake_result_size, result);
}

int
nvlist_unpack(char *bytes, size_t size, nvlist_t **list, int flag)
{
	if (flag != 0)
		return (EINVAL);
	if (unpacked_until_failure >= 0 && unpacked_until_failure-- == 0)
		return (ENOMEM);
	return (made(bytes, size, list));
}

int
nvlist_size(nvlist_t *list, size_t *size, int encoding)
{
	*size = list->size;
	return (encoding);
}

int
nvlist_pack(nvlist_t *list, char **bytes, size_t *size, int encoding, int flag)
{
	if (*size < list->size || encoding != 0 || flag != 0)
		return (EINVAL);
	memcpy(*bytes, list->bytes, list->size);
	return (0);
}

void
nvlist_free(nvlist_t *list)
{
	live--;
	free(list);
}
