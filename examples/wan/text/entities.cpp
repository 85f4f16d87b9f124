#include "wan/text/entities.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "wan/text/windows1252.hpp"

namespace wan {
namespace {

// Names and characters in turn. Those of the first table may stand without their semicolon.
constexpr std::u32string_view kLegacy =
    U"amp & lt < gt > quot \" AMP & LT < GT > QUOT \" COPY © REG ® nbsp \u00a0 iexcl ¡ cent ¢ pound £ "
    U"curren ¤ yen ¥ brvbar ¦ sect § uml ¨ copy © ordf ª laquo « not ¬ shy \u00ad reg ® macr ¯ deg ° "
    U"plusmn ± sup2 ² sup3 ³ acute ´ micro µ para ¶ middot · cedil ¸ sup1 ¹ ordm º raquo » frac14 ¼ "
    U"frac12 ½ frac34 ¾ iquest ¿ Agrave À Aacute Á Acirc Â Atilde Ã Auml Ä Aring Å AElig Æ Ccedil Ç "
    U"Egrave È Eacute É Ecirc Ê Euml Ë Igrave Ì Iacute Í Icirc Î Iuml Ï ETH Ð Ntilde Ñ Ograve Ò "
    U"Oacute Ó Ocirc Ô Otilde Õ Ouml Ö times × Oslash Ø Ugrave Ù Uacute Ú Ucirc Û Uuml Ü Yacute Ý "
    U"THORN Þ szlig ß agrave à aacute á acirc â atilde ã auml ä aring å aelig æ ccedil ç egrave è "
    U"eacute é ecirc ê euml ë igrave ì iacute í icirc î iuml ï eth ð ntilde ñ ograve ò oacute ó ocirc ô "
    U"otilde õ ouml ö divide ÷ oslash ø ugrave ù uacute ú ucirc û uuml ü yacute ý thorn þ yuml ÿ ";

constexpr std::u32string_view kOthers =
    U"apos ' Tab \t NewLine \n excl ! num # dollar $ percnt % lpar ( rpar ) ast * plus + comma , "
    U"period . sol / colon : semi ; equals = quest ? commat @ lsqb [ bsol \\ rsqb ] lowbar _ grave ` "
    U"lcub { verbar | rcub } OElig Œ oelig œ Scaron Š scaron š Yuml Ÿ fnof ƒ circ ˆ tilde ˜ Alpha Α "
    U"Beta Β Gamma Γ Delta Δ Epsilon Ε Zeta Ζ Eta Η Theta Θ Iota Ι Kappa Κ Lambda Λ Mu Μ Nu Ν Xi Ξ "
    U"Omicron Ο Pi Π Rho Ρ Sigma Σ Tau Τ Upsilon Υ Phi Φ Chi Χ Psi Ψ Omega Ω alpha α beta β gamma γ "
    U"delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ omicron ο pi π "
    U"rho ρ sigmaf ς sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω thetasym ϑ upsih ϒ piv ϖ "
    U"ensp \u2002 emsp \u2003 thinsp \u2009 zwnj \u200c zwj \u200d lrm \u200e rlm \u200f ndash – "
    U"mdash — lsquo ‘ rsquo ’ sbquo ‚ ldquo “ rdquo ” bdquo „ dagger † Dagger ‡ bull • hellip … "
    U"permil ‰ prime ′ Prime ″ lsaquo ‹ rsaquo › oline ‾ frasl ⁄ euro € image ℑ weierp ℘ real ℜ trade ™ "
    U"alefsym ℵ larr ← uarr ↑ rarr → darr ↓ harr ↔ crarr ↵ lArr ⇐ uArr ⇑ rArr ⇒ dArr ⇓ hArr ⇔ forall ∀ "
    U"part ∂ exist ∃ empty ∅ nabla ∇ isin ∈ notin ∉ ni ∋ prod ∏ sum ∑ minus − lowast ∗ radic √ prop ∝ "
    U"infin ∞ ang ∠ and ∧ or ∨ cap ∩ cup ∪ int ∫ there4 ∴ sim ∼ cong ≅ asymp ≈ ne ≠ equiv ≡ le ≤ ge ≥ "
    U"sub ⊂ sup ⊃ nsub ⊄ sube ⊆ supe ⊇ oplus ⊕ otimes ⊗ perp ⊥ sdot ⋅ lceil ⌈ rceil ⌉ lfloor ⌊ rfloor ⌋ "
    U"lang ⟨ rang ⟩ loz ◊ spades ♠ clubs ♣ hearts ♥ diams ♦ ";

using Names = std::unordered_map<std::u32string_view, char32_t>;

Names names_in(std::u32string_view table) {
  Names names;
  while (!table.empty()) {
    const size_t space = table.find(U' ');
    names.emplace(table.substr(0, space), table[space + 1]);
    table.remove_prefix(space + 3);
  }
  return names;
}

bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_letter(char32_t c) { return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z'); }
bool is_hex_digit(char32_t c) { return is_digit(c) || (c >= U'a' && c <= U'f') || (c >= U'A' && c <= U'F'); }

/// What an entity stands for, and the length of its spelling; 0 where the text is no entity.
struct Entity {
  size_t length = 0;
  std::u32string meaning = {};
};

/// The HTML standard's repairs: Windows-1252 for the C1 controls, nothing for what is no character at all.
std::u32string numbered(uint32_t number) {
  if (number == 0 || number > 0x10ffff || (number >= 0xd800 && number < 0xe000)) return U"\ufffd";
  if (number >= 0x80 && number < 0xa0) return {from_windows1252(static_cast<unsigned char>(number))};
  const bool is_control =
      number < 0x20 && number != U'\t' && number != U'\n' && number != U'\f' && number != U'\r';
  const bool is_noncharacter = (number >= 0xfdd0 && number < 0xfdf0) || (number & 0xfffe) == 0xfffe;
  if (is_control || is_noncharacter || number == 0x7f) return {};
  return {static_cast<char32_t>(number)};
}

/// `text` begins with "&#".
Entity numeric_entity(std::u32string_view text) {
  const bool is_hex = text.size() > 2 && (text[2] == U'x' || text[2] == U'X');
  const size_t first = is_hex ? 3 : 2;
  const auto is_part = is_hex ? is_hex_digit : is_digit;
  size_t end = first;
  uint32_t number = 0;
  for (; end < text.size() && is_part(text[end]); ++end) {
    const uint32_t digit = is_digit(text[end]) ? text[end] - U'0' : (text[end] | 0x20) - U'a' + 10;
    number = std::min<uint32_t>(number * (is_hex ? 16 : 10) + digit, 0x110000);
  }
  if (end == first) return {};
  if (end < text.size() && text[end] == U';') ++end;
  return {end, numbered(number)};
}

/// `text` begins with "&". The whole name up to a semicolon counts first, then the longest start of it that
/// may stand without one.
Entity named_entity(std::u32string_view text) {
  static const Names legacy = names_in(kLegacy), others = names_in(kOthers);
  constexpr size_t kLongest = 32;
  size_t end = 1;
  while (end < text.size() && end <= kLongest && (is_letter(text[end]) || is_digit(text[end]))) ++end;
  const auto name = text.substr(1, end - 1);
  if (end < text.size() && text[end] == U';') {
    if (const auto found = others.find(name); found != others.end()) return {end + 1, {found->second}};
    if (const auto found = legacy.find(name); found != legacy.end()) return {end + 1, {found->second}};
  }
  for (size_t length = name.size(); length > 1; --length) {
    const auto found = legacy.find(name.substr(0, length));
    if (found != legacy.end()) return {length + 1, {found->second}};
  }
  return {};
}

}  // namespace

std::u32string unescape_html(const std::u32string& text) {
  std::u32string plain;
  for (std::u32string_view rest = text; !rest.empty();) {
    const auto entity = rest[0] != U'&'           ? Entity{}
                        : rest.starts_with(U"&#") ? numeric_entity(rest)
                                                  : named_entity(rest);
    plain += entity.length > 0 ? entity.meaning : std::u32string(1, rest[0]);
    rest.remove_prefix(std::max<size_t>(entity.length, 1));
  }
  return plain;
}

}  // namespace wan
