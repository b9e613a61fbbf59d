// Every function of cinderblock.hpp: whole MODEL SCRATCH_FOLDER.
#include <cinderblock.hpp>
#include <cstdio>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <iterator>
#include <unistd.h>

static int failures;

static void check(bool fine, const char *text, int line) {
    if (!fine) {
        failures++;
        std::cerr << "line " << line << ": " << text << '\n';
    }
}
#define CHECK(condition) check(condition, #condition, __LINE__)

/** The status of the exception that a call throws; CINDER_OK if it throws none. */
template <class Call> static cinder_status status(Call call) {
    try {
        call();
        return CINDER_OK;
    } catch (const cinderblock::Error &error) {
        CHECK(error.what()[0] != '\0' && std::string(error.status_name()).rfind("CINDER_", 0) == 0);
        return error.status();
    }
}

struct Thrown {};

template <class Call> static bool throws(Call call) {
    try {
        call();
        return false;
    } catch (const Thrown &) {
        return true;
    }
}

static void models(const std::string &path) {
    using cinderblock::Model;
    std::uint64_t last = 0, most = 1;
    const Model model(path, cinderblock::model_options(), [&](std::uint64_t done, std::uint64_t total) {
        CHECK(done >= last && done <= total);
        last = done;
        most = total;
        return true;
    });
    CHECK(last == most && model.info().file_bytes == most && model.info().vocabulary == 4096);
    CHECK(!model.name().empty() && !model.isa().empty());
    CHECK(status([&] { Model(path, cinderblock::model_options(), [](auto, auto) { return false; }); }) == CINDER_INTERRUPTED);
    CHECK(throws([&] { Model(path, cinderblock::model_options(), [](auto, auto) -> bool { throw Thrown(); }); }));
    try {
        Model("/no/such/file");
        CHECK(false);
    } catch (const cinderblock::Error &error) {
        CHECK(error.file() == "/no/such/file" && error.subject().empty() && error.status() == CINDER_IO);
    }
    const int descriptor = open(path.c_str(), O_RDONLY);
    auto options = cinderblock::model_options();
    options.in_memory = 1;
    CHECK(Model::open_fd(descriptor, 0, 0, options).info().fingerprint == model.info().fingerprint);
    close(descriptor);
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    CHECK(Model::open_memory(bytes.data(), bytes.size()).info().fingerprint == model.info().fingerprint);
    CHECK(status([&] { Model::open_memory(bytes.data(), 100); }) == CINDER_FORMAT);
    auto large = cinderblock::session_options();
    CHECK(model.estimate().total > model.estimate().cache && model.estimate(large).cache > 0);
    large.cache_blocks = UINT64_MAX;
    CHECK(status([&] { model.estimate(large); }) == CINDER_RESOURCE);
    const std::string text = "The caf\u00e9 at the end of the lane.";
    CHECK(model.detokenize(model.tokenize(text)) == text && model.tokenize("").empty());
}

static void sessions(const std::string &path, const std::string &folder) {
    using cinderblock::Session;
    const cinderblock::Model model(path);
    std::vector<std::uint32_t> tokens(3000);
    for (std::size_t i = 0; i < tokens.size(); i++) {
        tokens[i] = 300 + i % 1000;
    }
    auto options = cinderblock::session_options();
    options.cache_blocks = 1024;
    Session session(model, options);
    std::vector<std::uint64_t> steps;
    session.append(tokens, [&](std::uint64_t done, std::uint64_t total) {
        CHECK(total == tokens.size());
        steps.push_back(done);
        return true;
    });
    CHECK(steps.size() > 3 && steps.front() == 0 && steps.back() == tokens.size());
    CHECK(session.length() == tokens.size() && session.tokens() == tokens);
    Session stopped(model);
    CHECK(status([&] { stopped.append(tokens, [](auto done, auto) { return done == 0; }); }) == CINDER_INTERRUPTED);
    CHECK(stopped.length() > 0 && stopped.length() < tokens.size());
    stopped.reset();
    CHECK(throws([&] { stopped.append("The old house", [](auto, auto) -> bool { throw Thrown(); }); }));
    CHECK(stopped.length() == 0);

    session.rewind(25);
    CHECK(session.length() == 25 * model.info().block_length && session.logits().size() == model.info().vocabulary);
    session.logit_bias({{7, 1000.0f}});
    CHECK(session.decode() == 7);
    session.logit_bias({});
    auto sampler = cinderblock::sampler_options();
    CHECK(sampler.temperature > 0.79f && sampler.temperature < 0.81f && sampler.top_k == 40);
    sampler.temperature = 0;
    session.sampler(sampler);
    session.speculation(CINDER_SPECULATE_OFF);
    CHECK(session.decode_block().size() == model.info().block_length - 1);

    auto copy = session.copy();
    auto loaded = Session::load(model, session.save(), &options);
    session.save_file(folder + "/session");
    auto read = Session::load_file(model, folder + "/session");
    std::remove((folder + "/session").c_str());
    CHECK(status([&] { session.save_file(folder); }) == CINDER_IO);
    const auto together = cinderblock::batch_decode({&copy, &loaded, &read});
    CHECK(together == std::vector<std::uint32_t>(3, session.decode()) && copy.tokens() == session.tokens());

    session.reset();
    session.append("The old house stood at the end of the lane.");
    auto generate = cinderblock::generate_options();
    generate.max_tokens = 20;
    generate.ignore_end = 1;
    std::string text;
    std::vector<std::uint32_t> generated;
    const auto result = session.generate(
        [&](std::string_view piece) { text += piece; return true; }, generate,
        [&](std::uint32_t token, float logprob) { generated.push_back(token); return logprob <= 0; });
    CHECK(result.tokens == 20 && generated.size() == 20 && model.detokenize(generated) == text);
    session.reset();
    session.append("The old house stood at the end of the lane.");
    session.stops({text.substr(5, 3)});
    CHECK(session.generate(nullptr, generate).end == CINDER_END_STOP);
    CHECK(throws([&] { session.generate([](auto) -> bool { throw Thrown(); }, generate); }));
    CHECK(throws([&] { session.generate(nullptr, generate, [](auto, auto) -> bool { throw Thrown(); }); }));
    session.cancel();
    CHECK(status([&] { session.decode(); }) == CINDER_INTERRUPTED);
    const Session moved = std::move(session);
    CHECK(moved.length() > 0 && session.get() == nullptr);
}

int main(int count, char **arguments) {
    CHECK(count == 3 && cinderblock::version_number() == CINDER_VERSION_NUMBER && cinderblock::version()[0] != '\0');
    try {
        models(arguments[1]);
        sessions(arguments[1], arguments[2]);
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    return failures != 0;
}
