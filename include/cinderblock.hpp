/**
 * @file cinderblock.hpp
 * C++17 over cinderblock.h: handles that free themselves, errors that are thrown. Nothing to link but the C library.
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

/** A failed call: the message, and the status for programs. */
class Error : public std::runtime_error {
public:
    Error(cinder_status status, const std::string &message) : std::runtime_error(message), status_(status) {}
    cinder_status status() const noexcept { return status_; }

private:
    cinder_status status_;
};

namespace detail {

template <auto Function> struct Free {
    template <class T> void operator()(T *handle) const noexcept { Function(handle); }
};

/** Calls with a place for the error as last argument, and throws it. */
template <class Function, class... Arguments> void check(Function function, Arguments... arguments) {
    cinder_error *error = nullptr;
    const cinder_status status = function(arguments..., &error);
    if (status == CINDER_OK) {
        return;
    }
    const std::unique_ptr<cinder_error, Free<cinder_error_free>> owner(error);
    throw Error(status, cinder_error_message(error));
}

} // namespace detail

/** Options with their defaults. */
inline cinder_model_options model_options() {
    cinder_model_options options;
    cinder_model_options_init(&options, sizeof options);
    return options;
}
inline cinder_session_options session_options() {
    cinder_session_options options;
    cinder_session_options_init(&options, sizeof options);
    return options;
}
inline cinder_sampler_options sampler_options() {
    cinder_sampler_options options;
    cinder_sampler_options_init(&options, sizeof options);
    return options;
}
inline cinder_generate_options generate_options() {
    cinder_generate_options options;
    cinder_generate_options_init(&options, sizeof options);
    return options;
}

/** A model; any number of threads may use it. */
class Model {
public:
    explicit Model(const std::string &path, const cinder_model_options &options = model_options()) {
        cinder_model *model = nullptr;
        detail::check(cinder_model_open, path.c_str(), &options, &model);
        handle_.reset(model);
    }

    cinder_model_info info() const {
        cinder_model_info info{};
        info.size = sizeof info;
        detail::check(cinder_model_get_info, get(), &info);
        return info;
    }

    cinder_memory_estimate estimate(const cinder_session_options &options = session_options()) const {
        cinder_memory_estimate estimate{};
        estimate.size = sizeof estimate;
        detail::check(cinder_model_estimate, get(), &options, &estimate);
        return estimate;
    }

    std::vector<std::uint32_t> tokenize(std::string_view text) const {
        std::vector<std::uint32_t> tokens(text.size());
        std::size_t count = 0;
        detail::check(cinder_tokenize, get(), text.data(), text.size(), tokens.data(), tokens.size(), &count);
        tokens.resize(count);
        return tokens;
    }

    const cinder_model *get() const noexcept { return handle_.get(); }

private:
    std::unique_ptr<cinder_model, detail::Free<cinder_model_free>> handle_;
};

/** A text; one thread at a time, but for cancel. It keeps its model alive. */
class Session {
public:
    explicit Session(const Model &model, const cinder_session_options &options = session_options()) {
        cinder_session *session = nullptr;
        detail::check(cinder_session_create, model.get(), &options, &session);
        handle_.reset(session);
    }

    /** A session from what save gave. */
    static Session load(const Model &model, const std::vector<std::byte> &data) {
        cinder_session *session = nullptr;
        detail::check(cinder_session_load, model.get(), static_cast<const void *>(data.data()), data.size(),
                      static_cast<const cinder_session_options *>(nullptr), &session);
        return Session(session);
    }

    std::vector<std::byte> save() const {
        std::size_t size = 0;
        cinder_session_save(get(), nullptr, 0, &size, nullptr);
        std::vector<std::byte> data(size);
        detail::check(cinder_session_save, static_cast<const cinder_session *>(get()),
                      static_cast<void *>(data.data()), data.size(), &size);
        return data;
    }

    void sampler(const cinder_sampler_options &options) {
        detail::check(cinder_session_set_sampler, get(), &options);
    }

    void append(std::string_view text) {
        detail::check(cinder_session_append_text, get(), text.data(), text.size());
    }

    void append(const std::vector<std::uint32_t> &tokens) {
        detail::check(cinder_session_append_tokens, get(), tokens.data(), tokens.size());
    }

    std::uint32_t decode() {
        std::uint32_t token = 0;
        detail::check(cinder_session_decode_token, get(), &token);
        return token;
    }

    /** Generates text; each piece goes to `each`, which returns whether to go on and may throw. */
    cinder_generation generate(const std::function<bool(std::string_view)> &each,
                               const cinder_generate_options &options = generate_options()) {
        struct Call {
            const std::function<bool(std::string_view)> &each;
            std::exception_ptr thrown;
        } call{each, nullptr};
        cinder_generation generation{};
        generation.size = sizeof generation;
        // An exception must not pass through the library: it waits here until the call is over.
        const cinder_text_fn forward = [](const char *text, std::size_t size, void *data) -> std::int32_t {
            auto &to = *static_cast<Call *>(data);
            try {
                return to.each(std::string_view(text, size)) ? 0 : 1;
            } catch (...) {
                to.thrown = std::current_exception();
                return 1;
            }
        };
        detail::check(cinder_session_generate, get(), &options, forward, static_cast<void *>(&call), &generation);
        if (call.thrown) {
            std::rethrow_exception(call.thrown);
        }
        return generation;
    }

    void reset() { detail::check(cinder_session_reset, get()); }
    void cancel() const noexcept { cinder_session_cancel(get()); }
    cinder_session *get() const noexcept { return handle_.get(); }

private:
    explicit Session(cinder_session *session) : handle_(session) {}
    std::unique_ptr<cinder_session, detail::Free<cinder_session_free>> handle_;
};

} // namespace cinderblock

#endif
