/**
 * @file cinderblock.hpp
 * C++17 over all of cinderblock.h: handles that free themselves, errors as exceptions, callbacks that may throw. It needs
 * nothing but the C library, whose header documents each function in detail.
 */
#ifndef CINDERBLOCK_HPP
#define CINDERBLOCK_HPP

#include <cinderblock.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cinderblock {

/** A failed call: the message, and for programs the status and the file and subject, which may be empty. */
class Error : public std::runtime_error {
public:
    explicit Error(const cinder_error *error)
        : std::runtime_error(cinder_error_message(error)), status_(cinder_error_status(error)),
          file_(text(cinder_error_file(error))), subject_(text(cinder_error_subject(error))) {}
    cinder_status status() const noexcept { return status_; }
    const char *status_name() const noexcept { return cinder_status_name(status_); }
    const std::string &file() const noexcept { return file_; }
    const std::string &subject() const noexcept { return subject_; }

private:
    static std::string text(const char *string) { return string == nullptr ? "" : string; }
    cinder_status status_;
    std::string file_, subject_;
};

/** Receives progress in bytes or tokens; returns whether to continue. */
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
/** Receives a piece of text; returns whether to continue. */
using Piece = std::function<bool(std::string_view text)>;
/** Receives a token and its log-probability; returns whether to continue. */
using Token = std::function<bool(std::uint32_t token, float logprob)>;

namespace detail {

template <auto Function> struct Free {
    template <class T> void operator()(T *handle) const noexcept { Function(handle); }
};

/** Throws what a callback has thrown, or the failure of the call. */
inline void finish(cinder_status status, cinder_error *error, const std::exception_ptr &thrown = nullptr) {
    const std::unique_ptr<cinder_error, Free<cinder_error_free>> owner(error);
    if (thrown) {
        std::rethrow_exception(thrown);
    }
    if (status != CINDER_OK) {
        throw Error(error);
    }
}

/** Calls a function that takes the place for an error last. */
template <class Function, class... Arguments> void check(Function function, Arguments... arguments) {
    cinder_error *error = nullptr;
    const cinder_status status = function(arguments..., &error);
    finish(status, error);
}

/** As check, for a call that runs callbacks, whose exception becomes that of the call. */
template <class Function, class... Arguments>
void check_callbacks(const std::exception_ptr &thrown, Function function, Arguments... arguments) {
    cinder_error *error = nullptr;
    const cinder_status status = function(arguments..., &error);
    finish(status, error, thrown);
}

/** Callbacks of a call. No exception may pass through the library: the first one waits here until the call returns. */
struct Callbacks {
    const Progress *progress_function = nullptr;
    const Piece *piece_function = nullptr;
    const Token *token_function = nullptr;
    std::exception_ptr thrown = nullptr;

    template <class Function, class... Arguments>
    std::int32_t run(const Function *function, Arguments... arguments) noexcept {
        try {
            return function == nullptr || !*function || (*function)(arguments...) ? 0 : 1;
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
    }

    static Callbacks &of(void *data) { return *static_cast<Callbacks *>(data); }
    static std::int32_t progress(std::uint64_t done, std::uint64_t total, void *data) {
        return of(data).run(of(data).progress_function, done, total);
    }
    static std::int32_t piece(const char *text, std::size_t size, void *data) {
        return of(data).run(of(data).piece_function, std::string_view(text, size));
    }
    static std::int32_t token(std::uint32_t token, float logprob, void *data) {
        return of(data).run(of(data).token_function, token, logprob);
    }
};

/** A buffer that a call fills: call(data, capacity, size, error). If the first size is too small, it is called again. */
template <class Buffer, class Call> Buffer filled(std::size_t capacity, Call call) {
    Buffer buffer;
    buffer.resize(capacity);
    std::size_t size = 0;
    cinder_error *error = nullptr;
    cinder_status status = call(buffer.data(), buffer.size(), &size, &error);
    if (status == CINDER_BUFFER) {
        cinder_error_free(error);
        error = nullptr;
        buffer.resize(size);
        status = call(buffer.data(), buffer.size(), &size, &error);
    }
    finish(status, error);
    buffer.resize(size);
    return buffer;
}

template <class Options, void (*Initialize)(Options *, std::size_t)> Options options() {
    Options options;
    Initialize(&options, sizeof options);
    return options;
}

template <class Result> Result result() {
    Result result{};
    result.size = sizeof result;
    return result;
}

} // namespace detail

/** The version of the library at run time, as text and as a number to compare with CINDER_VERSION_NUMBER. */
inline const char *version() noexcept { return cinder_version(); }
inline std::uint32_t version_number() noexcept { return cinder_version_number(); }

/** Options with their defaults. */
inline cinder_model_options model_options() {
    return detail::options<cinder_model_options, cinder_model_options_init>();
}
inline cinder_session_options session_options() {
    return detail::options<cinder_session_options, cinder_session_options_init>();
}
inline cinder_sampler_options sampler_options() {
    return detail::options<cinder_sampler_options, cinder_sampler_options_init>();
}
inline cinder_generate_options generate_options() {
    return detail::options<cinder_generate_options, cinder_generate_options_init>();
}

/** A model. Any number of threads may use it. */
class Model {
public:
    explicit Model(const std::string &path, const cinder_model_options &options = model_options(),
                   const Progress &progress = nullptr)
        : Model(options, progress, cinder_model_open, path.c_str()) {}

    /** A model in an open file or in part of one; length 0 is all bytes from offset on. */
    static Model open_fd(int descriptor, std::uint64_t offset = 0, std::uint64_t length = 0,
                         const cinder_model_options &options = model_options(), const Progress &progress = nullptr) {
        return Model(options, progress, cinder_model_open_fd, static_cast<std::int32_t>(descriptor), offset, length);
    }

    /** A model from the bytes of a file, which are copied. */
    static Model open_memory(const void *data, std::size_t size, const cinder_model_options &options = model_options(),
                             const Progress &progress = nullptr) {
        return Model(options, progress, cinder_model_open_memory, data, size);
    }

    cinder_model_info info() const {
        auto info = detail::result<cinder_model_info>();
        detail::check(cinder_model_get_info, get(), &info);
        return info;
    }

    std::string name() const { return cinder_model_name(get()); }
    std::string isa() const { return cinder_model_isa(get()); }

    cinder_memory_estimate estimate(const cinder_session_options &options = session_options()) const {
        auto estimate = detail::result<cinder_memory_estimate>();
        detail::check(cinder_model_estimate, get(), &options, &estimate);
        return estimate;
    }

    std::vector<std::uint32_t> tokenize(std::string_view text) const {
        return detail::filled<std::vector<std::uint32_t>>(text.size(), [&](auto data, auto capacity, auto size, auto error) {
            return cinder_tokenize(get(), text.data(), text.size(), data, capacity, size, error);
        });
    }

    std::string detokenize(const std::vector<std::uint32_t> &tokens) const {
        return detail::filled<std::string>(8 * tokens.size(), [&](auto data, auto capacity, auto size, auto error) {
            return cinder_detokenize(get(), tokens.data(), tokens.size(), data, capacity, size, error);
        });
    }

    const cinder_model *get() const noexcept { return handle_.get(); }

private:
    template <class Function, class... Arguments>
    Model(cinder_model_options options, const Progress &progress, Function function, Arguments... arguments) {
        cinder_model *model = nullptr;
        detail::Callbacks callbacks;
        if (progress) {
            callbacks.progress_function = &progress;
            options.progress = detail::Callbacks::progress;
            options.progress_data = &callbacks;
        }
        const cinder_model_options *given = &options;
        detail::check_callbacks(callbacks.thrown, function, arguments..., given, &model);
        handle_.reset(model);
    }
    std::unique_ptr<cinder_model, detail::Free<cinder_model_free>> handle_;
};

/** A sequence of tokens. One thread uses it at a time, except for cancel. It keeps its model alive. */
class Session {
public:
    explicit Session(const Model &model, const cinder_session_options &options = session_options())
        : info_(model.info()) {
        cinder_session *session = nullptr;
        detail::check(cinder_session_create, model.get(), &options, &session);
        handle_.reset(session);
    }

    /** A session from the bytes of save; with options, only if it was created with these. */
    static Session load(const Model &model, const std::vector<std::byte> &data,
                        const cinder_session_options *options = nullptr) {
        cinder_session *session = nullptr;
        detail::check(cinder_session_load, model.get(), static_cast<const void *>(data.data()), data.size(), options,
                      &session);
        return Session(session, model.info());
    }

    static Session load_file(const Model &model, const std::string &path,
                             const cinder_session_options *options = nullptr) {
        cinder_session *session = nullptr;
        detail::check(cinder_session_load_file, model.get(), path.c_str(), options, &session);
        return Session(session, model.info());
    }

    std::vector<std::byte> save() const {
        return detail::filled<std::vector<std::byte>>(0, [&](auto data, auto capacity, auto size, auto error) {
            return cinder_session_save(get(), data, capacity, size, error);
        });
    }

    void save_file(const std::string &path) const { detail::check(cinder_session_save_file, get(), path.c_str()); }

    /** A second session that continues exactly as this one would. */
    Session copy() const {
        cinder_session *session = nullptr;
        detail::check(cinder_session_copy, get(), &session);
        return Session(session, info_);
    }

    void append(std::string_view text, const Progress &progress = nullptr) {
        if (!progress) {
            return detail::check(cinder_session_append_text, get(), text.data(), text.size());
        }
        detail::Callbacks callbacks;
        callbacks.progress_function = &progress;
        detail::check_callbacks(callbacks.thrown, cinder_session_append_text_with_progress, get(), text.data(),
                                text.size(), detail::Callbacks::progress, static_cast<void *>(&callbacks));
    }

    void append(const std::vector<std::uint32_t> &tokens, const Progress &progress = nullptr) {
        if (!progress) {
            return detail::check(cinder_session_append_tokens, get(), tokens.data(), tokens.size());
        }
        detail::Callbacks callbacks;
        callbacks.progress_function = &progress;
        detail::check_callbacks(callbacks.thrown, cinder_session_append_tokens_with_progress, get(), tokens.data(),
                                tokens.size(), detail::Callbacks::progress, static_cast<void *>(&callbacks));
    }

    std::uint64_t length() const {
        std::uint64_t length = 0;
        detail::check(cinder_session_length, get(), &length);
        return length;
    }

    /** The last tokens, without padding, as far as they are available. */
    std::vector<std::uint32_t> tokens() const {
        return detail::filled<std::vector<std::uint32_t>>(0, [&](auto data, auto capacity, auto size, auto error) {
            return cinder_session_tokens(get(), data, capacity, size, error);
        });
    }

    void reset() { detail::check(cinder_session_reset, get()); }
    void rewind(std::uint64_t blocks) { detail::check(cinder_session_rewind, get(), blocks); }

    void sampler(const cinder_sampler_options &options) { detail::check(cinder_session_set_sampler, get(), &options); }

    /** Replaces the logit biases: pairs of a token and the value to add. */
    void logit_bias(const std::vector<std::pair<std::uint32_t, float>> &pairs) {
        std::vector<std::uint32_t> tokens;
        std::vector<float> biases;
        for (const auto &[token, bias] : pairs) {
            tokens.push_back(token);
            biases.push_back(bias);
        }
        detail::check(cinder_session_set_logit_bias, get(), tokens.data(), biases.data(), tokens.size());
    }

    /** Sets CINDER_SPECULATE_AUTO, CINDER_SPECULATE_ON or CINDER_SPECULATE_OFF. */
    void speculation(std::int32_t mode) { detail::check(cinder_session_set_speculation, get(), mode); }

    void stops(const std::vector<std::string> &stops) {
        std::vector<const char *> strings;
        for (const auto &stop : stops) {
            strings.push_back(stop.c_str());
        }
        detail::check(cinder_session_set_stops, get(), strings.data(), strings.size());
    }

    std::uint32_t decode() {
        std::uint32_t token = 0;
        detail::check(cinder_session_decode_token, get(), &token);
        return token;
    }

    /** Samples tokens until the open block is complete. */
    std::vector<std::uint32_t> decode_block() {
        return detail::filled<std::vector<std::uint32_t>>(
            info_.block_length, [&](auto data, auto capacity, auto size, auto error) {
                return cinder_session_decode_block(get(), data, capacity, size, error);
            });
    }

    std::vector<float> logits() {
        std::vector<float> logits(info_.vocabulary);
        detail::check(cinder_session_logits, get(), logits.data(), logits.size());
        return logits;
    }

    /** Generates text in pieces. The callbacks return whether to continue and may throw. */
    cinder_generation generate(const Piece &piece, cinder_generate_options options = generate_options(),
                               const Token &token = nullptr) {
        detail::Callbacks callbacks;
        callbacks.piece_function = &piece;
        if (token) {
            callbacks.token_function = &token;
            options.token = detail::Callbacks::token;
            options.token_data = &callbacks;
        }
        auto generation = detail::result<cinder_generation>();
        const cinder_generate_options *given = &options;
        detail::check_callbacks(callbacks.thrown, cinder_session_generate, get(), given, detail::Callbacks::piece,
                                static_cast<void *>(&callbacks), &generation);
        return generation;
    }

    /** Requests the current or the next call to stop. Any thread, also in a signal handler. */
    void cancel() const noexcept { cinder_session_cancel(get()); }
    cinder_session *get() const noexcept { return handle_.get(); }

private:
    Session(cinder_session *session, const cinder_model_info &info) : info_(info), handle_(session) {}
    cinder_model_info info_;
    std::unique_ptr<cinder_session, detail::Free<cinder_session_free>> handle_;
};

/** Samples the next token of each of several sessions of one model; they share every pass over the weights. */
inline std::vector<std::uint32_t> batch_decode(const std::vector<Session *> &sessions) {
    std::vector<cinder_session *> handles;
    for (const Session *session : sessions) {
        handles.push_back(session->get());
    }
    std::vector<std::uint32_t> tokens(sessions.size());
    cinder_session *const *first = handles.data();
    detail::check(cinder_batch_decode, first, handles.size(), tokens.data());
    return tokens;
}

} // namespace cinderblock

#endif
