/**
 * @file cinderblock.h
 * Runs Block Transformer language models on the CPU. Made by cbindgen from src/capi; do not edit.
 *
 * Rules that hold for every function:
 *
 * - A pointer is null or valid for what the function says. Null where something is needed is CINDER_ARGUMENT.
 * - Most functions return a cinder_status and take a cinder_error ** last. If that is not null and the call fails,
 *   *error gets a new error, which the caller frees; on success it is not touched, so begin with NULL.
 * - Other results are written only on success, except where a size is said to be written with CINDER_BUFFER.
 * - Handles are freed with the function of their type, in any order. Freeing NULL does nothing.
 * - A cinder_model may be used by any number of threads at once. A cinder_session belongs to one thread at a time;
 *   only cinder_session_cancel may come from another. A second call at the same time is CINDER_MISUSE.
 * - The library does not print, exit, abort, handle signals or keep global state. A defect in it is
 *   CINDER_INTERNAL and poisons the session in use, nothing else. Only where the system has no memory left for a small
 *   allocation, the process ends.
 * - Callbacks run on the thread of the call. They must return: neither longjmp nor an exception may leave them.
 * - Text is UTF-8. Options begin with their size; prepare them with their _init function.
 *
 * docs/embedding.md explains threads, fork, dlopen and sizes.
 */


#ifndef CINDERBLOCK_H
#define CINDERBLOCK_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of this header, first part: changes when a program must be changed.
 */
#define CINDER_VERSION_MAJOR 0

/**
 * Version of this header, second part: changes when something is added. While the first part is 0, this one
 * changes when a program must be changed.
 */
#define CINDER_VERSION_MINOR 1

/**
 * Version of this header, third part.
 */
#define CINDER_VERSION_PATCH 0

/**
 * Version of this header as one number: 1000000 x major + 1000 x minor + patch.
 */
#define CINDER_VERSION_NUMBER 1000

/**
 * Level of a line for a log: a defect in this library.
 */
#define CINDER_LOG_ERROR 1

/**
 * Level of a line for a log: what the library does.
 */
#define CINDER_LOG_INFO 2

/**
 * How a first text that does not fill whole blocks is laid out: as the model was trained.
 */
#define CINDER_ALIGN_AUTO 0

/**
 * The first block is filled up from the left.
 */
#define CINDER_ALIGN_LEFT 1

/**
 * The last block is left open.
 */
#define CINDER_ALIGN_TAIL 2

/**
 * Type of the cache: the one that fits the model.
 */
#define CINDER_CACHE_AUTO 0

/**
 * Type of the cache: single precision.
 */
#define CINDER_CACHE_F32 1

/**
 * Type of the cache: half precision.
 */
#define CINDER_CACHE_F16 2

/**
 * Type of the cache: integers of 8 bits, in about half the bytes of half precision.
 */
#define CINDER_CACHE_Q8 3

/**
 * Tokens are guessed where that saves time.
 */
#define CINDER_SPECULATE_AUTO 0

/**
 * Tokens are guessed wherever there is a guess.
 */
#define CINDER_SPECULATE_ON 1

/**
 * Tokens are never guessed.
 */
#define CINDER_SPECULATE_OFF 2

/**
 * The text ended because it has as many tokens as were asked for.
 */
#define CINDER_END_LENGTH 0

/**
 * The text ended because the model ended it.
 */
#define CINDER_END_OF_TEXT 1

/**
 * The text ended because of a stop string, which is not part of it.
 */
#define CINDER_END_STOP 2

/**
 * The text ended because the callback asked for it.
 */
#define CINDER_END_CALLER 3

/**
 * The text ended because its time was over.
 */
#define CINDER_END_TIME 4

/**
 * Why a call failed. Made by the call, freed by the caller. It belongs to one thread at a time and depends on no
 * other handle.
 */
typedef struct cinder_error cinder_error;

/**
 * A model that is ready to run. Any number of threads may use it at the same time. Its sessions keep what they need
 * of it, so the order in which they are freed does not matter.
 */
typedef struct cinder_model cinder_model;

/**
 * A text and what is needed to continue it. It belongs to one thread at a time; only cinder_session_cancel may be
 * called by any thread while another call is running. Two calls at once are refused with CINDER_MISUSE.
 */
typedef struct cinder_session cinder_session;

/**
 * What became of a call: CINDER_OK or the reason why not. Numbers are never changed and never used again; later
 * versions may add some, so treat an unknown one as a failure.
 */
typedef int32_t cinder_status;

/**
 * Called while a model is opened: with 0 bytes first, with all of them at last.
 *
 * @param done Bytes that have been checked.
 * @param total Bytes that will be.
 * @param user_data What the options say.
 * @return 0 to go on; anything else ends the call with CINDER_INTERRUPTED.
 */
typedef int32_t (*cinder_progress_fn)(uint64_t done, uint64_t total, void *user_data);

/**
 * Called with a line for a log, by the thread that is inside a call with the model or one of its sessions.
 *
 * @param level CINDER_LOG_ERROR or CINDER_LOG_INFO; later versions may add some.
 * @param message UTF-8, without a line break; lives during the call.
 * @param user_data What the options say.
 */
typedef void (*cinder_log_fn)(int32_t level, const char *message, void *user_data);

/**
 * How a model is opened. Prepare it with cinder_model_options_init.
 */
typedef struct cinder_model_options {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Threads that work for the model's sessions, the calling one included; 0 is as many as machine, affinity and
     * quota allow. With 1, no thread is ever started, and sessions on different threads do not wait for
     * each other.
     */
    uint32_t threads;
    /**
     * Not 0 to compare every weight with its checksum, which reads the whole file.
     */
    int32_t verify;
    /**
     * May be null.
     */
    cinder_progress_fn progress;
    /**
     * Passed to progress.
     */
    void *progress_data;
    /**
     * May be null. Must stay valid until the model and all its sessions are freed.
     */
    cinder_log_fn log;
    /**
     * Passed to log.
     */
    void *log_data;
} cinder_model_options;

/**
 * What a session remembers. Prepare it with cinder_session_options_init.
 */
typedef struct cinder_session_options {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Blocks of tokens that the cache holds, pinned ones included; when it is full, the oldest leaves.
     */
    uint64_t cache_blocks;
    /**
     * First blocks that are never forgotten; fewer than cache_blocks.
     */
    uint64_t sink_blocks;
    /**
     * CINDER_CACHE_AUTO, CINDER_CACHE_F32, CINDER_CACHE_F16 or CINDER_CACHE_Q8.
     */
    int32_t cache_type;
    /**
     * CINDER_ALIGN_AUTO, CINDER_ALIGN_LEFT or CINDER_ALIGN_TAIL.
     */
    int32_t alignment;
} cinder_session_options;

/**
 * How a token is chosen. Prepare it with cinder_sampler_options_init, which gives plain sampling.
 */
typedef struct cinder_sampler_options {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Seed of the draws; the same one gives the same text.
     */
    uint64_t seed;
    /**
     * Divides the logits; 0 takes the most likely token.
     */
    float temperature;
    /**
     * Keeps the most likely tokens that together reach this probability; more than 0, up to 1.
     */
    float top_p;
    /**
     * Keeps tokens at least this probable, relative to the most likely one; 0 to 1.
     */
    float min_p;
    /**
     * Divides positive and multiplies negative logits of recent tokens; more than 0, 1 is none.
     */
    float repetition_penalty;
    /**
     * Keeps so many of the most likely tokens; 0 keeps all.
     */
    uint32_t top_k;
    /**
     * How many of the last tokens are recent.
     */
    uint32_t repetition_window;
} cinder_sampler_options;

/**
 * Called with each generated token, before the text that it completes.
 *
 * @param token Its id.
 * @param logprob The natural logarithm of the probability that the model gave it, before anything that the sampler
 * does.
 * @param user_data What the options say.
 * @return 0 to go on; anything else ends the text with CINDER_END_CALLER.
 */
typedef int32_t (*cinder_token_fn)(uint32_t token, float logprob, void *user_data);

/**
 * How text is generated. Prepare it with cinder_generate_options_init.
 */
typedef struct cinder_generate_options {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Tokens at most.
     */
    uint64_t max_tokens;
    /**
     * Not 0 to go on past the token that ends a text.
     */
    int32_t ignore_end;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * No token is begun after so many milliseconds; 0 for no limit.
     */
    uint64_t time_limit_ms;
    /**
     * Gets each token with its log-probability, which costs a little time; may be null.
     */
    cinder_token_fn token;
    /**
     * Passed to token.
     */
    void *token_data;
} cinder_generate_options;

/**
 * Facts about a model. Set size before the call; the library writes no more than that.
 */
typedef struct cinder_model_info {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Bytes of the file.
     */
    uint64_t file_bytes;
    /**
     * Identifies the model: a hash of its header, which holds the checksum of every tensor.
     */
    uint64_t fingerprint;
    /**
     * Blocks of the contexts that the model was trained with.
     */
    uint64_t trained_blocks;
    /**
     * Number of tokens, and of logits.
     */
    uint32_t vocabulary;
    /**
     * Tokens of a block.
     */
    uint32_t block_length;
    /**
     * The token that ends a text; -1 if the model names none.
     */
    int32_t end_token;
    /**
     * 1 if the model carries a tokenizer and this build can use it.
     */
    int32_t has_tokenizer;
    /**
     * Layers of the decoder over blocks.
     */
    uint32_t block_layers;
    /**
     * Width of the decoder over blocks.
     */
    uint32_t block_hidden;
    /**
     * Layers of the decoder over the tokens of a block.
     */
    uint32_t token_layers;
    /**
     * Width of the decoder over the tokens of a block.
     */
    uint32_t token_hidden;
} cinder_model_info;

/**
 * What a session needs of memory, in bytes. Set size before the call; the library writes no more than that.
 */
typedef struct cinder_memory_estimate {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Bytes of the model's file, shared by all sessions and, if it is mapped, by all processes.
     */
    uint64_t weights;
    /**
     * Bytes of the cache.
     */
    uint64_t cache;
    /**
     * Bytes of all buffers.
     */
    uint64_t scratch;
    /**
     * All of it.
     */
    uint64_t total;
} cinder_memory_estimate;

/**
 * Called with a piece of text: whole characters of UTF-8, at least one, ending with a null that size does not count.
 *
 * It may call any function; those that use this session answer CINDER_MISUSE, but for cinder_session_cancel and
 * cinder_session_free. It must return: neither longjmp nor an exception may leave it.
 *
 * @param text Lives during the call.
 * @param size Bytes of text.
 * @param user_data What was given with the callback.
 * @return 0 to go on; anything else ends the text with CINDER_END_CALLER.
 */
typedef int32_t (*cinder_text_fn)(const char *text, size_t size, void *user_data);

/**
 * What came of generating. Set size before the call; the library writes no more than that.
 */
typedef struct cinder_generation {
    /**
     * Bytes of this struct as the program knows it.
     */
    size_t size;
    /**
     * Tokens that were added to the session.
     */
    uint64_t tokens;
    /**
     * Why it ended: CINDER_END_LENGTH and so on.
     */
    int32_t end;
    /**
     * 0.
     */
    int32_t reserved;
} cinder_generation;

/**
 * Done.
 */
#define CINDER_OK 0

/**
 * The operating system refused to read, write or map.
 */
#define CINDER_IO 1

/**
 * Bytes break their format: truncated, contradictory, damaged, or of another model.
 */
#define CINDER_FORMAT 2

/**
 * Well-formed, but not implemented, or not part of this build or this model.
 */
#define CINDER_UNSUPPORTED 3

/**
 * An argument is out of range or null where it must not be.
 */
#define CINDER_ARGUMENT 4

/**
 * Memory or threads are not to be had.
 */
#define CINDER_RESOURCE 5

/**
 * A number left the range of floats, as damaged weights make it do.
 */
#define CINDER_NUMERIC 6

/**
 * A defect in this library. The handle that was used is poisoned; free it.
 */
#define CINDER_INTERNAL 7

/**
 * Stopped as was asked: by a callback or by cinder_session_cancel.
 */
#define CINDER_INTERRUPTED 8

/**
 * The handle is in use by another call, or was made before a fork by the parent process.
 */
#define CINDER_MISUSE 9

/**
 * An earlier call on this handle ended with CINDER_INTERNAL; it can only be freed.
 */
#define CINDER_POISONED 10

/**
 * The buffer is too small; the size that it needs has been stored.
 */
#define CINDER_BUFFER 11

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that the program runs with, for people: "major.minor.patch".
 *
 * @return A static string. Any thread. Never fails.
 */
const char *cinder_version(void);

/**
 * The version of the library that the program runs with, to be compared with CINDER_VERSION_NUMBER.
 *
 * @return 1000000 x major + 1000 x minor + patch. Any thread. Never fails.
 */
uint32_t cinder_version_number(void);

/**
 * The name of a status, for logs: "CINDER_OK", or "unknown status".
 *
 * @return A static string. Any thread. Never fails.
 */
const char *cinder_status_name(cinder_status status);

/**
 * The status of the call that failed.
 *
 * @param error May be null.
 * @return CINDER_OK for null.
 */
cinder_status cinder_error_status(const struct cinder_error *error);

/**
 * One line, UTF-8, in lower case, that names the file, what was found and what was expected.
 *
 * @param error May be null.
 * @return Lives as long as the error; "" for null.
 */
const char *cinder_error_message(const struct cinder_error *error);

/**
 * The file that the error is about, as it was given.
 *
 * @param error May be null.
 * @return Lives as long as the error; null if it is about no file.
 */
const char *cinder_error_file(const struct cinder_error *error);

/**
 * The tensor, metadata key or argument that the error is about.
 *
 * @param error May be null.
 * @return Lives as long as the error; null if that is not known.
 */
const char *cinder_error_subject(const struct cinder_error *error);

/**
 * Frees an error and its texts.
 *
 * @param error May be null.
 */
void cinder_error_free(struct cinder_error *error);

/**
 * Prepares options: all defaults, and the size.
 *
 * @param options May be null.
 * @param size sizeof(cinder_model_options).
 */
void cinder_model_options_init(struct cinder_model_options *options, size_t size);

/**
 * Prepares options: all defaults, and the size.
 *
 * @param options May be null.
 * @param size sizeof(cinder_session_options).
 */
void cinder_session_options_init(struct cinder_session_options *options, size_t size);

/**
 * Prepares options: all defaults, and the size.
 *
 * @param options May be null.
 * @param size sizeof(cinder_sampler_options).
 */
void cinder_sampler_options_init(struct cinder_sampler_options *options, size_t size);

/**
 * Prepares options: all defaults, and the size.
 *
 * @param options May be null.
 * @param size sizeof(cinder_generate_options).
 */
void cinder_generate_options_init(struct cinder_generate_options *options, size_t size);

/**
 * Opens a model file. The file is mapped, so this takes a few milliseconds; it must not be truncated or written to
 * while the model lives. Replace it by renaming a new file over it.
 *
 * @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
 * @param options Null for the defaults.
 * @param model Gets the model on success, to be freed with cinder_model_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_IO, CINDER_FORMAT or CINDER_UNSUPPORTED for the file; CINDER_INTERRUPTED if progress
 * asked for it; CINDER_ARGUMENT. Any thread.
 */
cinder_status cinder_model_open(const char *path,
                                const struct cinder_model_options *options,
                                struct cinder_model **model,
                                struct cinder_error **error);

/**
 * Opens a model that is an open file or a part of one, such as an asset in an archive. The file is mapped; the
 * descriptor may be closed afterwards and its position is left alone. POSIX systems only.
 *
 * @param descriptor A descriptor of a regular file that can be read.
 * @param offset First byte of the model; a multiple of 64.
 * @param length Bytes of the model; 0 is up to the end of the file.
 * @param options Null for the defaults.
 * @param model Gets the model on success, to be freed with cinder_model_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return As cinder_model_open. Any thread.
 */
cinder_status cinder_model_open_fd(int32_t descriptor,
                                   uint64_t offset,
                                   uint64_t length,
                                   const struct cinder_model_options *options,
                                   struct cinder_model **model,
                                   struct cinder_error **error);

/**
 * Opens a model from the bytes of a file, which are copied.
 *
 * @param data The bytes; they may be freed afterwards.
 * @param size How many.
 * @param options Null for the defaults.
 * @param model Gets the model on success, to be freed with cinder_model_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return As cinder_model_open; CINDER_RESOURCE if there is no memory for the copy. Any thread.
 */
cinder_status cinder_model_open_memory(const void *data,
                                       size_t size,
                                       const struct cinder_model_options *options,
                                       struct cinder_model **model,
                                       struct cinder_error **error);

/**
 * Frees a model. Its sessions go on.
 *
 * @param model May be null. No other call may be using this handle.
 */
void cinder_model_free(struct cinder_model *model);

/**
 * Facts about a model.
 *
 * @param info Gets them; set its size before.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK or CINDER_ARGUMENT. Any thread.
 */
cinder_status cinder_model_get_info(const struct cinder_model *model,
                                    struct cinder_model_info *info,
                                    struct cinder_error **error);

/**
 * The name that the model's file gives it, UTF-8.
 *
 * @param model May be null.
 * @return Lives as long as the handle; "" for null. Any thread.
 */
const char *cinder_model_name(const struct cinder_model *model);

/**
 * The instruction set whose kernels run the model, such as "avx2".
 *
 * @param model May be null.
 * @return Lives as long as the handle; "" for null. Any thread.
 */
const char *cinder_model_isa(const struct cinder_model *model);

/**
 * What a session would need of memory, before anything is allocated.
 *
 * @param options Null for the defaults.
 * @param estimate Gets it; set its size before.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK or CINDER_ARGUMENT. Any thread.
 */
cinder_status cinder_model_estimate(const struct cinder_model *model,
                                    const struct cinder_session_options *options,
                                    struct cinder_memory_estimate *estimate,
                                    struct cinder_error **error);

/**
 * The tokens of a text, without special tokens.
 *
 * @param text UTF-8; need not end with a null.
 * @param size Bytes of text.
 * @param tokens Gets them; may be null if capacity is 0.
 * @param capacity Tokens that there is room for.
 * @param count Gets the number of tokens, also with CINDER_BUFFER; size bytes never make more than size tokens.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_UNSUPPORTED if the model carries no tokenizer
 * or this build has none; CINDER_ARGUMENT; CINDER_FORMAT if the tokenizer is damaged. Any thread.
 */
cinder_status cinder_tokenize(const struct cinder_model *model,
                              const char *text,
                              size_t size,
                              uint32_t *tokens,
                              size_t capacity,
                              size_t *count,
                              struct cinder_error **error);

/**
 * The text of tokens, without special tokens. Bytes that are not UTF-8 become U+FFFD, so pieces of a text should be
 * decoded together, or generated with cinder_session_generate, which never splits a character.
 *
 * @param tokens Ids, less than the vocabulary.
 * @param count How many.
 * @param text Gets UTF-8 without a null at the end; may be null if capacity is 0.
 * @param capacity Bytes that there is room for.
 * @param size Gets the number of bytes, also with CINDER_BUFFER.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return As cinder_tokenize. Any thread.
 */
cinder_status cinder_detokenize(const struct cinder_model *model,
                                const uint32_t *tokens,
                                size_t count,
                                char *text,
                                size_t capacity,
                                size_t *size,
                                struct cinder_error **error);

/**
 * Starts an empty session. The first session of a model starts its threads, the last one to be freed ends them.
 *
 * @param model Kept alive by the session.
 * @param options Null for the defaults.
 * @param session Gets the session on success, to be freed with cinder_session_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, or CINDER_RESOURCE if memory or threads are not to be had. Any thread.
 */
cinder_status cinder_session_create(const struct cinder_model *model,
                                    const struct cinder_session_options *options,
                                    struct cinder_session **session,
                                    struct cinder_error **error);

/**
 * Frees a session. Inside a callback of the session itself, it is freed when the call that runs the callback ends.
 *
 * @param session May be null. No other thread may be using it.
 */
void cinder_session_free(struct cinder_session *session);

/**
 * Adds text. The session's alignment says what becomes of a first text that does not fill whole blocks.
 *
 * @param text UTF-8; need not end with a null.
 * @param size Bytes of text; 0 adds nothing.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_UNSUPPORTED if the model carries no tokenizer or this build has none;
 * CINDER_INTERRUPTED if cancelled, then the blocks that were done have been added; CINDER_ARGUMENT, CINDER_FORMAT,
 * CINDER_MISUSE, CINDER_POISONED, and then nothing was added. The session's thread.
 */
cinder_status cinder_session_append_text(struct cinder_session *session,
                                         const char *text,
                                         size_t size,
                                         struct cinder_error **error);

/**
 * Adds tokens.
 *
 * @param tokens Ids, less than the vocabulary.
 * @param count How many; 0 adds nothing.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_INTERRUPTED if cancelled, then the blocks that were done have been added;
 * CINDER_ARGUMENT, CINDER_MISUSE, CINDER_POISONED, and then nothing was added. The session's thread.
 */
cinder_status cinder_session_append_tokens(struct cinder_session *session,
                                           const uint32_t *tokens,
                                           size_t count,
                                           struct cinder_error **error);

/**
 * Tokens so far, those included that filled up the first block.
 *
 * @param length Gets the number on success.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_length(const struct cinder_session *session,
                                    uint64_t *length,
                                    struct cinder_error **error);

/**
 * Forgets the text; memory is kept. The sampler starts again from its seed; its options and the stop strings stay. A
 * request to cancel is forgotten.
 *
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_reset(struct cinder_session *session,
                                   struct cinder_error **error);

/**
 * Asks the session to stop: the call that is running, or the next one that can be stopped, ends with
 * CINDER_INTERRUPTED, and then the request is gone. What can be stopped: appending a whole block or more, logits,
 * decoding and generating. It takes the time of a layer.
 *
 * @param session May be null. Any thread and any signal handler, also while another call is running, but not while
 * it is freed.
 */
void cinder_session_cancel(const struct cinder_session *session);

/**
 * Samples differently from now on, starting from the seed.
 *
 * @param options Null for the defaults.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_set_sampler(struct cinder_session *session,
                                         const struct cinder_sampler_options *options,
                                         struct cinder_error **error);

/**
 * Adds to the logits of some tokens before one is sampled, from now on; the sampler starts
 * again from its seed.
 *
 * @param tokens Ids, less than the vocabulary.
 * @param biases One for each token; negative infinity forbids it.
 * @param count How many; 0 takes all back.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_set_logit_bias(struct cinder_session *session,
                                            const uint32_t *tokens,
                                            const float *biases,
                                            size_t count,
                                            struct cinder_error **error);

/**
 * Guesses the next tokens from the text so far, or no more, from now on. The library computes guessed tokens together
 * and keeps those that come true, which is faster and gives exactly the tokens that it gives without.
 *
 * @param when CINDER_SPECULATE_AUTO, which a session begins with, CINDER_SPECULATE_ON or CINDER_SPECULATE_OFF.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_set_speculation(struct cinder_session *session,
                                             int32_t when,
                                             struct cinder_error **error);

/**
 * Goes back to the first whole blocks of a session, as if nothing had been added since; but the sampler's random
 * numbers go on.
 *
 * @param blocks Blocks to keep: 0, pinned ones, all of them, or as many as can be computed from what is remembered; a
 * full cache can go back by at least 32.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_ARGUMENT if that is forgotten or there are fewer blocks, then nothing has changed;
 * CINDER_MISUSE, CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_rewind(struct cinder_session *session,
                                    uint64_t blocks,
                                    struct cinder_error **error);

/**
 * Ends generated text before any of these strings. They are copied.
 *
 * @param stops UTF-8, each ending with a null; empty ones are ignored.
 * @param count How many; 0 for none.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_set_stops(struct cinder_session *session,
                                       const char *const *stops,
                                       size_t count,
                                       struct cinder_error **error);

/**
 * Samples the next token and adds it to the session.
 *
 * @param token Gets its id on success.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_ARGUMENT if the session is empty; CINDER_NUMERIC if the weights are damaged;
 * CINDER_INTERRUPTED if cancelled, then nothing was added; CINDER_MISUSE, CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_decode_token(struct cinder_session *session,
                                          uint32_t *token,
                                          struct cinder_error **error);

/**
 * Samples tokens until the open block is complete and adds them to the session.
 *
 * @param tokens Gets their ids; with room for the model's block_length it is never too small.
 * @param capacity Tokens that there is room for.
 * @param count Gets the number of tokens that were added, also on failure; with CINDER_BUFFER the number that
 * there must be room for.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return As cinder_session_decode_token; CINDER_BUFFER if there is no room for all, then nothing was added.
 */
cinder_status cinder_session_decode_block(struct cinder_session *session,
                                          uint32_t *tokens,
                                          size_t capacity,
                                          size_t *count,
                                          struct cinder_error **error);

/**
 * The logits of the next token.
 *
 * @param logits Gets one for each token of the vocabulary.
 * @param capacity Logits that there is room for.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_ARGUMENT if the session is empty;
 * CINDER_NUMERIC if the weights are damaged; CINDER_INTERRUPTED if cancelled; CINDER_MISUSE, CINDER_POISONED. The
 * session's thread.
 */
cinder_status cinder_session_logits(struct cinder_session *session,
                                    float *logits,
                                    size_t capacity,
                                    struct cinder_error **error);

/**
 * Generates text and passes it on in pieces. Every token becomes part of the session but the one that ends the
 * text, so that more can be appended and generated.
 *
 * @param options Null for the defaults: 256 tokens at most.
 * @param function Gets the pieces; null to throw them away.
 * @param user_data Passed to function.
 * @param generation Null, or gets what came of it on success; set its size before.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, also if function ended it; CINDER_INTERRUPTED if cancelled, then text that was held back is
 * lost and the tokens stay; CINDER_UNSUPPORTED if the model carries no tokenizer or this build has none;
 * CINDER_ARGUMENT, CINDER_NUMERIC, CINDER_MISUSE, CINDER_POISONED. The session's thread, which also runs function.
 */
cinder_status cinder_session_generate(struct cinder_session *session,
                                      const struct cinder_generate_options *options,
                                      cinder_text_fn function,
                                      void *user_data,
                                      struct cinder_generation *generation,
                                      struct cinder_error **error);

/**
 * Samples the next token of each of several sessions of one model and adds it. They share every pass over the
 * weights, so many sessions take hardly longer than one; each gets the token that it would get alone.
 *
 * @param sessions None of them empty, none twice, all made with the same cinder_model.
 * @param count How many; 0 does nothing.
 * @param tokens Gets one id for each session on success.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return As cinder_session_decode_token, then nothing was added to any; CINDER_INTERRUPTED if one of them was
 * cancelled. The thread that all the sessions belong to.
 */
cinder_status cinder_batch_decode(struct cinder_session *const *sessions,
                                  size_t count,
                                  uint32_t *tokens,
                                  struct cinder_error **error);

/**
 * Saves the session's text, its cache and its sampler to memory. A session that is loaded from it continues exactly as
 * this one would, at any token; stop strings are not saved.
 *
 * @param buffer Gets the bytes; may be null if capacity is 0.
 * @param capacity Bytes that there is room for.
 * @param size Gets the number of bytes, also with CINDER_BUFFER: ask with capacity 0 first.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE,
 * CINDER_POISONED. The session's thread.
 */
cinder_status cinder_session_save(const struct cinder_session *session,
                                  void *buffer,
                                  size_t capacity,
                                  size_t *size,
                                  struct cinder_error **error);

/**
 * Saves the session to a file as cinder_session_save does. Under the path is the old content or the new one,
 * whatever happens; only the file's owner may read it.
 *
 * @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_IO, CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE, CINDER_POISONED. The session's
 * thread.
 */
cinder_status cinder_session_save_file(const struct cinder_session *session,
                                       const char *path,
                                       struct cinder_error **error);

/**
 * Starts a session from what cinder_session_save stored. Damaged bytes, and those of another version or model, are
 * refused; so bytes from a stranger can make a session say anything but do no harm.
 *
 * @param model The model that the session was saved with.
 * @param data The bytes; they may be freed afterwards.
 * @param size How many.
 * @param options Null, or the session must have been created with these, which limits its memory.
 * @param session Gets the session on success, to be freed with cinder_session_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Any thread.
 */
cinder_status cinder_session_load(const struct cinder_model *model,
                                  const void *data,
                                  size_t size,
                                  const struct cinder_session_options *options,
                                  struct cinder_session **session,
                                  struct cinder_error **error);

/**
 * Starts a session from a file as cinder_session_load does.
 *
 * @param model The model that the session was saved with.
 * @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
 * @param options Null, or the session must have been created with these, which limits its memory.
 * @param session Gets the session on success, to be freed with cinder_session_free.
 * @param error Null, or gets an error on failure, to be freed with cinder_error_free.
 * @return CINDER_OK, CINDER_IO, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Any thread.
 */
cinder_status cinder_session_load_file(const struct cinder_model *model,
                                       const char *path,
                                       const struct cinder_session_options *options,
                                       struct cinder_session **session,
                                       struct cinder_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CINDERBLOCK_H */
