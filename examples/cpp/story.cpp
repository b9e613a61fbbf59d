// A story in C++: story MODEL.
#include <cinderblock.hpp>
#include <iostream>

int main(int count, char **arguments) {
    try {
        if (count != 2) {
            throw std::invalid_argument("usage: story MODEL");
        }
        const cinderblock::Model model(arguments[1]);
        cinderblock::Session session(model);
        session.append("The old house stood at the end of the lane, and nobody had lived in it for years.");
        // A copy continues exactly as the original would.
        auto copy = session.copy();
        auto options = cinderblock::generate_options();
        options.max_tokens = 40;
        std::string text, other;
        session.generate([&](std::string_view piece) { text += piece; return true; }, options);
        copy.generate([&](std::string_view piece) { other += piece; return true; }, options);
        std::cout << text << '\n';
        try {
            session.generate([](std::string_view) -> bool { throw std::runtime_error("enough"); }, options);
            return 1;
        } catch (const std::runtime_error &error) {
            std::cout << error.what() << '\n';
        }
        try {
            session.append(std::vector<std::uint32_t>{~0u});
            return 1;
        } catch (const cinderblock::Error &error) {
            std::cout << error.what() << '\n';
            return error.status() == CINDER_ARGUMENT && text == other ? 0 : 1;
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
