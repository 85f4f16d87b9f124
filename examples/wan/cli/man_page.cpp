#include "wan/cli/man_page.hpp"

#include <fmt/format.h>

#include <boost/program_options.hpp>
#include <sstream>

#include "wan/cli/about.hpp"
#include "wan/cli/flag.hpp"

namespace wan {
namespace {

/// Text as roff has it: strokes that can be searched for, and no line that begins with a request.
std::string roff(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = i == 0 || text[i - 1] == '\n';
    if (begins && (text[i] == '.' || text[i] == '\'')) out += "\\&";
    if (text[i] == '-')
      out += "\\-";
    else if (text[i] == '\\')
      out += "\\e";
    else
      out += text[i];
  }
  return out;
}

/// The headings of groups are in the text of a table alone.
std::string options(const About& about) {
  std::string page;
  for (const auto& option : about.flags.options()) {
    const auto value = option->format_parameter();
    const auto shorter = short_name_of(*option);
    page += fmt::format(".TP\n\\fB{}\\fR",
                        roff((shorter.empty() ? "" : shorter + ", ") + "--" + option->long_name()));
    if (!value.empty()) page += fmt::format("{}\\fI{}\\fR", value[0] == '[' ? "" : " ", roff(value));
    page += fmt::format("\n{}\n", roff(option->description()));
  }
  return page;
}

}  // namespace

std::string man_page(const About& about, const std::string& version) {
  std::string page;
  page += fmt::format(".TH {} 1 \"\" \"wanpar {}\" \"wanpar\"\n", roff(about.program), version);
  page += fmt::format(".SH NAME\n{} \\- {}\n", roff(about.program), roff(about.summary));
  page += fmt::format(".SH SYNOPSIS\n.nf\n{}.fi\n", roff(about.usage));
  page += fmt::format(".SH OPTIONS\n{}", options(about));
  if (about.reads_variables)
    page +=
        ".SH ENVIRONMENT\nA flag that is not given is read from the variable WANPAR_FLAG, its name in "
        "capitals.\n";
  return page +
         ".SH EXIT STATUS\n0; 1 where the work failed; 2 for a wrong command line; wanrun has that of the "
         "rank that "
         "failed first.\n";
}

}  // namespace wan
