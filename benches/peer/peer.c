// Times one phase of llama.cpp through its C API and prints one JSON object.
//
//   peer -m model.gguf -p prefill -n 512              a prompt of 512 tokens
//   peer -m model.gguf -p decode -n 32 -c 1024 -b 8   32 tokens for each of 8 sequences that hold 1024 already
//
// Further options: -t THREADS (2), -f 0|1 flash attention (0), -u PHYSICAL_BATCH (512), -v (llama.cpp's log).
// Tokens are random; sampling is not timed, but the logits of every decoded token are computed and read.
// Everything else is as llama-bench sets it: f16 cache, repacked weights, a thread pool that lives as long as
// the context. Each sequence has a cache of its own, as batched serving of unrelated requests has.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ggml-cpu.h"
#include "llama.h"

static struct llama_context *context;
static struct llama_batch batch;
static int vocabulary;

static void fail(const char *what) {
    fprintf(stderr, "peer: %s\n", what);
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void add(int sequence, int position, bool logits) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    state = state * 6364136223846793005u + 1442695040888963407u;
    int i = batch.n_tokens++;
    batch.token[i] = (llama_token)((state >> 33) % (uint64_t)vocabulary);
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = logits;
}

static void decode(void) {
    if (llama_decode(context, batch) != 0) fail("llama_decode failed");
    llama_synchronize(context);
    // The last row stands for all: a broken model or kernel shows as a number that is none.
    const float *row = llama_get_logits_ith(context, batch.n_tokens - 1);
    float sum = 0;
    for (int i = 0; i < vocabulary; i++) sum += row[i];
    if (!isfinite(sum)) fail("the logits are not finite");
    batch.n_tokens = 0;
}

static void prefill(int tokens) {
    for (int i = 0; i < tokens; i++) add(0, i, i + 1 == tokens);
    decode();
}

static void step(int sequences, int position) {
    for (int i = 0; i < sequences; i++) add(i, position, true);
    decode();
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
    const char *path = NULL, *phase = "decode";
    int threads = 2, tokens = 32, depth = 0, sequences = 1, flash = 0, physical = 512, verbose = 0, option;
    while ((option = getopt(argc, argv, "m:p:t:n:c:b:f:u:v")) != -1) {
        switch (option) {
            case 'm': path = optarg; break;
            case 'p': phase = optarg; break;
            case 't': threads = atoi(optarg); break;
            case 'n': tokens = atoi(optarg); break;
            case 'c': depth = atoi(optarg); break;
            case 'b': sequences = atoi(optarg); break;
            case 'f': flash = atoi(optarg); break;
            case 'u': physical = atoi(optarg); break;
            case 'v': verbose = 1; break;
            default: fail("unknown option; the head of peer.c lists them");
        }
    }
    bool decoding = strcmp(phase, "decode") == 0;
    if (!decoding && strcmp(phase, "prefill") != 0) fail("-p takes prefill or decode");
    if (!path || threads < 1 || tokens < 1 || depth < 0 || sequences < 1) fail("an option is missing or too small");
    if (!decoding && (depth || sequences > 1)) fail("prefill is timed for one empty sequence");

    if (!verbose) llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) fail("the model does not load");
    vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));

    int longest = decoding ? depth + tokens : tokens, logical = longest > sequences ? longest : sequences;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)((longest + 255) / 256 * 256 * sequences);
    params.n_batch = (uint32_t)logical;
    params.n_ubatch = (uint32_t)physical;
    params.n_seq_max = (uint32_t)sequences;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context = llama_init_from_model(model, params);
    if (!context) fail("no context");
    struct ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    struct ggml_threadpool *pool = ggml_threadpool_new(&pool_params);
    if (!pool) fail("no thread pool");
    llama_attach_threadpool(context, pool, pool);
    batch = llama_batch_init(logical, 0, 1);
    llama_memory_t memory = llama_get_memory(context);

    double start;
    if (decoding) {
        // One sequence is computed and copied to the others; the step that is thrown away carries the copies out.
        if (depth) prefill(depth);
        for (int i = 1; i < sequences && depth; i++) llama_memory_seq_cp(memory, 0, i, -1, -1);
        step(sequences, depth);
        for (int i = 0; i < sequences; i++) llama_memory_seq_rm(memory, i, depth, -1);
        start = seconds();
        for (int i = 0; i < tokens; i++) step(sequences, depth + i);
    } else {
        prefill(tokens);
        llama_memory_clear(memory, false);
        start = seconds();
        prefill(tokens);
    }
    double taken = seconds() - start;

    printf("{\"phase\": \"%s\", \"batch\": %d, \"context\": %d, \"tokens\": %d, \"threads\": %d, "
           "\"flash_attention\": %s, \"seconds\": %.6f, \"tok_s\": %.3f, \"system\": \"%s\"}\n",
           phase, sequences, depth, tokens, threads, flash ? "true" : "false", taken,
           (double)tokens * sequences / taken, llama_print_system_info());

    llama_batch_free(batch);
    llama_free(context);
    ggml_threadpool_free(pool);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
