// A guess at the language of a text, from its script and its most common words. It is shown; the search does not use it.

const SCRIPTS = [
  [/\p{sc=Hangul}/u, "Korean", "ko"], [/[\p{sc=Hiragana}\p{sc=Katakana}]/u, "Japanese", "ja"],
  [/\p{sc=Han}/u, "Chinese", "zh"], [/\p{sc=Thai}/u, "Thai", "th"], [/\p{sc=Greek}/u, "Greek", "el"],
  [/\p{sc=Hebrew}/u, "Hebrew", "he"], [/\p{sc=Devanagari}/u, "Hindi", "hi"], [/\p{sc=Bengali}/u, "Bengali", "bn"],
  [/\p{sc=Tamil}/u, "Tamil", "ta"], [/\p{sc=Telugu}/u, "Telugu", "te"], [/\p{sc=Georgian}/u, "Georgian", "ka"],
  [/\p{sc=Armenian}/u, "Armenian", "hy"],
];
// letters that one language of a script has and its neighbours have not
const LETTERS = [
  [/[іїєґ]/i, "Ukrainian", "uk"], [/ў/i, "Belarusian", "be"], [/[ђћџјљњ]/i, "Serbian", "sr"],
  [/[پچژگ]/, "Persian", "fa"],
];
const WORDS = {
  en: ["English", "the a an of and with in on at is are to by from that this two who her his its"],
  de: ["German", "der die das ein eine einen einem einer und mit im in auf ist sind vor dem den nicht zwei bei von zu"],
  fr: ["French", "le la les un une des du de et avec dans sur est sont au aux qui pas deux devant en à"],
  es: ["Spanish", "el la los las un una unos de del y con en sobre es son al que no dos por para"],
  it: ["Italian", "il lo la gli i un uno una di del della e con in su sul è sono al che non due davanti per"],
  pt: ["Portuguese", "o a os as um uma de do da dos e com em no na sobre é são ao que não dois por para"],
  nl: ["Dutch", "de het een en met in op is zijn van aan voor dat niet twee bij naar die"],
  pl: ["Polish", "i z na w się jest są do nie dwa przed który ze od po przy dla oraz"],
  tr: ["Turkish", "bir ve ile bu için olan iki üzerinde içinde çok da de önünde gibi"],
  sv: ["Swedish", "en ett och med på i är av som det den inte två framför till för"],
  da: ["Danish", "en et og med på i er af som det den ikke to foran til for"],
  fi: ["Finnish", "ja on se joka kaksi ei ovat oli kanssa edessä päällä sekä yksi"],
  cs: ["Czech", "a s na v je jsou se do ne dva před který ze od po u pro"],
  hu: ["Hungarian", "a az egy és van vannak nem két előtt meg ami hogy is"],
  id: ["Indonesian", "dan dengan di yang ini itu dari untuk pada seekor sebuah dua tidak ke"],
  vi: ["Vietnamese", "một và với trong trên là của có hai không cho những con cái được"],
};
const KNOWN = Object.entries(WORDS).map(([code, [name, words]]) => ({ code, name, words: new Set(words.split(" ")) }));

/** {name, code} of the likeliest language; code is "" where it cannot be told. */
export function guessLanguage(text) {
  const letters = text.match(/\p{L}/gu) ?? [];
  if (!letters.length) return { name: "", code: "" };
  const share = (pattern) => letters.filter((letter) => pattern.test(letter)).length / letters.length;
  for (const [pattern, name, code] of SCRIPTS) {
    if (share(pattern) > 0.2) return { name, code };
  }
  for (const [script, usual, code] of [[/\p{sc=Cyrillic}/u, "Russian", "ru"], [/\p{sc=Arabic}/u, "Arabic", "ar"]]) {
    if (share(script) > 0.5) {
      const own = LETTERS.find(([pattern]) => pattern.test(text) && script.test(text.match(pattern)[0]));
      return own ? { name: own[1], code: own[2] } : { name: usual, code };
    }
  }
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? [];
  const scores = KNOWN.map((one) => ({ one, hits: words.filter((word) => one.words.has(word)).length }));
  scores.sort((a, b) => b.hits - a.hits);
  const [first, second] = scores;
  // one common word more than the runner-up, and one word in eight
  if (first.hits > second.hits && first.hits * 8 >= words.length) return { name: first.one.name, code: first.one.code };
  return { name: "", code: "" };
}

/** How many words a text has, where scripts without spaces count by what the browser takes for words. */
export function countWords(text, code) {
  if (!globalThis.Intl?.Segmenter) return text.split(/\s+/).filter(Boolean).length;
  const parts = new Intl.Segmenter(code || undefined, { granularity: "word" }).segment(text);
  let count = 0;
  for (const part of parts) count += part.isWordLike ? 1 : 0;
  return count;
}
