// Merges models as a recipe says, from C++: 01_merge recipe.yml merged
#include <ingot/ingot.hpp>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char **arguments) {
  if (count != 3) return std::cerr << "usage: 01_merge RECIPE DIRECTORY\n", 2;
  std::ifstream file(arguments[1]);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  try {
    ingot::context context;
    ingot::recipe recipe(text, arguments[1]);
    ingot::plan plan(context, recipe);
    std::cout << plan.table();
    std::string report = plan.run_to_directory(context, arguments[2], INGOT_RUN_OPTIONS_INIT, [](const ingot_progress &progress) {
      std::fprintf(stderr, "\r%llu of %llu bytes", static_cast<unsigned long long>(progress.bytes_done),
                   static_cast<unsigned long long>(progress.bytes_total));
      return 0; // an exception here would come out of run_to_directory
    });
    std::cout << "\n" << report << "\n";
    return 0;
  } catch (const ingot::error &error) {
    if (error.line > 0) std::cerr << error.origin << ":" << error.line << ":" << error.column << ": ";
    std::cerr << error.what() << "\n";
    if (!error.hint.empty()) std::cerr << "hint: " << error.hint << "\n";
    return 1;
  }
}
