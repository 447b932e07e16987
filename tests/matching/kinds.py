# ruff: noqa: RUF001
r"""Answers of the kinds that were once called right falsely, or missed: (kind, options, reference, answer, right).

Kinds and forms are from answers of vision-language models to the benchmarks' questions; ``question`` texts are plain
except where the question decides the unit. The table is data: `test_kinds` asserts every row, and counts what a
matcher gets wrong of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from structdecode.matching.types import Kind


@dataclass(frozen=True)
class Row:
    kind: Kind
    options: tuple[str, ...]
    reference: str
    answer: str
    right: bool


_ANGLES = ("45°", "60°", "90°", "120°")
_YESNO = ("Yes", "No")
_TRUTH = ("True", "False")
_VALUES = ("0.25", "0.5", "0.75", "2")
_MONEY = ("$1,200", "$1,500", "$15", "$2,500")
_COUNTS = ("two", "three", "four", "five")
_COLOURS = ("red", "dark red", "blue", "green")
_PLAIN: tuple[str, ...] = ()

# kind, options, reference, then the answers that are right and those that are wrong
_TABLE: list[tuple[Kind, tuple[str, ...], str, list[str], list[str]]] = [
    # A part of a formula taken for the whole
    ("number", _PLAIN, "6", [r"\boxed{6}", "$6$", r"\boxed{\frac{12}{2}}", r"\boxed{2 \cdot 3}", "3!", r"\boxed{|-6|}", r"$\sqrt{36}$"],
     [r"\boxed{\frac{\pi}{6}}", r"\boxed{6\pi}", r"$\frac{1}{6}$", r"\boxed{6^2}", "6!", r"\boxed{\sqrt{6}}", r"$6\sqrt{2}$", r"\boxed{-6}", r"\frac{6}{\pi}", "6x", "$x^6$", "6 + x", r"\log 6", r"\sin(6)", "6e", r"\boxed{6i}", r"\boxed{6 \pm 1}", r"\boxed{\pm 6}", r"$\binom{6}{2}$", r"\overline{6}"]),
    ("number", _PLAIN, "2", [r"\boxed{2}", r"\frac{4}{2}", r"\sqrt{4}", "2!", r"\log_{10} 100", "$|-2|$"],
     [r"e^{2}", r"$e^{2}$", r"\frac{2}{3}", r"\boxed{\frac{2}{\pi}}", r"x^{2}", r"\sqrt[3]{2}", "2^{10}", r"\boxed{2^{x}}", r"\pm2", r"\boxed{x=\pm 2}", r"\ln 2", "2√3", r"\boxed{e^2}", "-2", r"2\frac{1}{2}", r"2^{-1}", r"\lfloor 2.5 \rfloor + x"]),
    ("number", _PLAIN, "-2", ["-2", r"\boxed{-2}", r"\frac{-4}{2}", r"\frac{4}{-2}", r"-\frac{4}{2}", "-|2|"],
     [r"\frac{1}{-2}", r"\boxed{\frac{1}{-2}}", "|-2|", r"x^{-2}", r"10^{-2}", "2", r"e^{-2}", r"\frac{-2}{3}"]),
    ("number", _PLAIN, "5", ["5", r"\boxed{5}", "|-5|", r"\frac{10}{2}"],
     ["5!", r"\boxed{5!}", "$5!$", r"\frac{5}{7}", "5^2", r"5\pi", "5π", "5 pi", "√5", r"|-3|", r"\boxed{5^\circ C + x}", r"x_5"]),
    ("number", _PLAIN, "-3", ["-3", r"-\frac{6}{2}"], ["|-3|", r"\boxed{|-3|}", "$|-3|$", r"\left|-3\right|", r"\frac{-3}{4}", r"2^{-3}"]),
    ("number", _PLAIN, "3", ["|-3|", r"\boxed{|-3|}", r"\left|-3\right|", "3", r"\sqrt{9}", r"\sqrt[3]{27}"], ["-|3|", "3!", "3x", r"\frac{\pi}{3}", r"2\sqrt{3}"]),
    ("number", _PLAIN, "1/2", [r"\frac1{2}", r"\frac{1}2", r"\frac12", r"\dfrac{1}{2}", r"\tfrac12", "0.5", ".5", "½", "1/2", r"\boxed{\frac{1}{2}}", r"$\frac{2}{4}$", "2^{-1}", "5e-1"],
     [r"\frac{1}{-2}", r"-\frac12", r"\frac{1}{2}x", r"\frac{1}{2\pi}", r"\frac{1}{2}\pi", "1", "2", "5", r"1\frac{1}{2}", r"\frac{1}{\sqrt{2}}"]),
    ("number", _PLAIN, "120", ["5!", r"\boxed{5!}", "$5!$", r"$5! = 120$", "120", r"5 \cdot 4 \cdot 3 \cdot 2"], ["120!", "5", "4!", "6!", r"120\pi", r"\frac{120}{7}"]),
    ("number", _PLAIN, "3.5", [r"3\frac{1}{2}", r"\frac72", "7/2", "3 1/2", "3½", "3.50"], [r"3\frac{1}{3}", r"3 \cdot \frac12", "3", "1/2", r"\frac{3}{5}"]),
    ("latex", _PLAIN, r"\frac{\pi}{6}", [r"\boxed{\frac{\pi}{6}}", r"$\pi/6$", "π/6", "pi/6", r"\frac{1}{6}\pi", r"\dfrac\pi6"], ["6", r"\pi", r"\frac{6}{\pi}", r"\frac{\pi}{3}", r"\frac16", "0.5235", "30"]),
    ("latex", _PLAIN, r"e^2", [r"e^{2}", r"\mathrm{e}^2", r"\mathrm{e}^{2}", r"\boxed{e^2}", r"$e \cdot e$", r"\exp(2)"], ["2", "e", "2e", "7.389", r"e^{-2}"]),
    ("latex", _PLAIN, "e", ["e", r"\mathrm{e}", r"$\mathrm{e}$", r"e^1", r"\text{e}"], ["2.718", "E", "1", r"\pi"]),
    ("latex", _PLAIN, r"2\sqrt{3}", ["2√3", "$2√3$", r"2\sqrt3", r"\sqrt{12}", r"\boxed{2\sqrt{3}}", r"\frac{6}{\sqrt{3}}", "2*sqrt(3)"], ["2", "3", r"\sqrt{3}", r"3\sqrt{2}", "3.46", r"-2\sqrt{3}", r"2\sqrt{3}x", r"2\sqrt[3]{3}"]),
    ("latex", _PLAIN, r"12\pi", ["12 pi", "12π", r"12\pi", r"$12\pi$", r"\boxed{12\pi}", r"12\pi \text{ cm}^2", r"3 \cdot 4\pi", "12*pi"], ["12", r"\pi", r"12\pi^2", r"\frac{12}{\pi}", r"6\pi", "37.7", r"12\pi r"]),
    ("latex", _PLAIN, r"12\pi \text{ cm}^2", [r"12\pi", r"12\pi \text{ cm}^2", r"$12\pi$ cm²", r"12π cm^2", r"$12\pi\,\mathrm{cm}^2$"], [r"12\pi \text{ cm}", r"12\pi \text{ m}^2", "12 cm^2", r"12\pi \text{ kg}"]),
    ("latex", _PLAIN, "x^2-1", ["(x-1)(x+1)", "$x^2-1$", r"-1+x^2"], ["x^2", "x^2+1", "-1", "(x-1)^2", "x-1", "X^2-1", "y^2-1"]),
    # Small magnitudes and units
    ("number", _PLAIN, "9.1e-31 kg", ["9.1e-31 kg", r"$9.1 \times 10^{-31}$ kg", "9.1 x 10^-31 kg", "9.1e-28 g"], ["1.7e-27 kg", "9.1e-31 m", "9.2e-31 kg", "0 kg", "0", "9.1e-30 kg", r"$1.67\times10^{-27}$ kg"]),
    ("latex", _PLAIN, r"9.1 \times 10^{-31}", [r"9.1\cdot 10^{-31}", "9.1e-31", r"$9.1 \times 10^{-31}$"], [r"1.7 \times 10^{-27}", r"9.1 \times 10^{-30}", "0", r"9.1", r"10^{-31}"]),
    ("latex", _PLAIN, r"2^{-54}", [r"\frac{1}{2^{54}}", "2^{-54}", "$2^{-54}$"], ["2^{-55}", "0", "2^{54}", "2^{-53}", r"\frac{1}{2^{55}}"]),
    ("latex", _PLAIN, r"2^{-70}\pi", [r"\frac{\pi}{2^{70}}", r"2^{-70} \pi"], [r"2^{-71}\pi", r"2^{-69}\pi", "0"]),
    ("number", _PLAIN, "1e-20", ["1e-20", "10^{-20}", r"$10^{-20}$", "0.00000000000000000001"], ["1e-21", "0", "2e-20", "1e20", "-1e-20"]),
    ("latex", _PLAIN, r"5\pi \text{ m}", [r"$5\pi$ m", "5π m", r"5\pi", r"$500\pi$ cm"], [r"$5\pi$ kg", "5 m", r"$5\pi$ s", r"$5\pi$ cm", r"$5\pi$ m^2"]),
    ("latex", _PLAIN, r"$5\pi$ kg", [r"5\pi kg", r"$5\pi$ kg", "5π kg", r"5\pi \text{ kg}", r"\boxed{5\pi \text{ kg}}"], [r"$5\pi$ m", "5 kg", r"$5\pi$ g", r"$5\pi$ J"]),
    ("number", _PLAIN, "20 m/s", [r"$20 \text{ m/s}$", r"$20\ \mathrm{m/s}$", "20 m/s", "$20$ m/s", "72 km/h", "20"], ["$20", "20 USD", "20 dollars", "20 km/h", "20 m", "20 s", "20 m/s^2"]),
    ("number", _PLAIN, "20 dollars", ["$20", "20 dollars", "$20.00", r"\$20", "20 USD", "2000 cents"], [r"$20 \text{ m/s}$", "20 m/s", "20 euros", "€20", "20 kg", "20%"]),
    ("number", _PLAIN, "5 cm", ["5 cm", "50 mm", "0.05 m", r"$5\text{ cm}$", r"\boxed{5 \text{ cm}}", "5"], ["5 m", "5 cm^2", "5 kg", "5 mm", "5%", "5 inches", r"5\pi cm", "$5"]),
    ("number", _PLAIN, "25%", ["25%", "25 percent", r"25\%", r"$25\%$", "0.25", "1/4"], ["25 apples", "25 cm", "0.25%", "2.5%", "25°", "$25"]),
    ("number", _PLAIN, "0.5", [".5", "0.50", "1/2", "50%", "0,5"], ["5", "-0.5", "0.05", "0.5 cm^2 or 0.6", "50"]),
    # Options that are ordinary words
    ("choice", _YESNO, "B", ["No", "No.", "B", "(B) No", "No, it does not.", "The answer is no.", "Answer: No", "No, there are no dogs.", r"\boxed{No}"],
     ["It has no wheels.", "There are no clouds, the sky is blue.", "Yes, there is no dog.", "Yes", "There is no doubt.", "No doubt it is red.", "I see no dog in the picture and a cat.", "No one is there but yes", "Yes, no clouds are visible.", "A", "Yes. There are no people.", "The man has no hat."]),
    ("choice", _YESNO, "A", ["Yes", "Yes, there is no dog.", "Yes, no clouds are visible.", "A", "Yes. There are no people.", "The answer is yes.", "Yes, the sky has no clouds.", r"\boxed{\text{Yes}}", "(A)", "Yes, it is."],
     ["No", "It has no wheels.", "There are no clouds, the sky is blue.", "Yes or no", "Yes and no", "The yes button is green.", "No, it is not.", "Not yes"]),
    ("choice", _TRUTH, "A", ["True", "The statement is true.", "A", "That is true.", "Answer: True"], ["False", "The statement is not true.", "It is false that the sky is blue.", "True or false?", "The statement is false."]),
    ("choice", _TRUTH, "B", ["False", "The statement is false.", "The statement is not true.", "B."], ["True", "It is true.", "Not false", "The claim is not false."]),
    ("yes-no", _PLAIN, "no", ["No", "No.", "No, it has wheels.", "The answer is no.", "False"], ["Yes, there is no dog.", "There are no clouds, the sky is blue.", "Yes", "It has no wheels.", "No doubt about it.", "yes and no"]),
    # The number that is the answer
    ("number", _PLAIN, "5", ["Answer: Out of 8 things 3 go, leaving 5.", "8 - 3 = 5", "Of the 8 birds, 3 fly away, leaving 5.", "There were 8, 3 left, so 5 remain.", "In 2019 there were 5 cases.", "The answer is 5.", "3 + 2 = 5", "There are 5 dogs.", "Answer: 5 dogs", "five", "There are 3 red and 2 blue balls, making 5 in total."],
     ["Out of 5 things 3 go, leaving 2.", "5 - 3 = 2", "5 + 3", "3 cats and 5 dogs", "5 or 6", "5 dogs and 2 cats", "between 5 and 8", "more than 5", "not 5", "step 5: 3", "Answer: 5 cats and 3 dogs, so 8."]),
    ("number", _PLAIN, "8", ["Answer: 5 cats and 3 dogs, so 8.", "5 + 3 = 8", "eight", "There are 8."], ["Answer: Out of 8 things 3 go, leaving 5.", "Out of 8, 3 remain.", "8 things, 3 of them red", "8 - 3 = 5"]),
    ("number", _PLAIN, "45", ["In 2019 there were 45 cases.", "There were 45 cases in 2019.", "45 cases", "By 2019, it was 45."], ["In 2019 there were 46 cases.", "2019", "In 45 years there were 2 cases.", "45 in 2019 and 50 in 2020"]),
    ("number", _PLAIN, "2019", ["2019", "The year is 2019.", "It was in 2019."], ["In 2019 there were 45 cases.", "45", "2019 or 2020", "Between 2018 and 2019"]),
    ("number", _PLAIN, "3", ["There are 3 dogs.", "three", "Three.", "Answer: 3", "**3**", "3 dogs are in the picture."], ["13", "3.5", "3 dogs or 4", "Out of 3 dogs, 1 sleeps.", "1/3", "3:30", "30"]),
    # Options by value
    ("choice", _ANGLES, "B", ["60 degrees", r"$60^\circ$", r"\boxed{60^\circ}", "60°", r"60^{\circ}", "60", r"The angle is $60^\circ$.", "B", "(B) 60°", r"\boxed{B}", r"\angle A = 60^\circ", "60 deg", "It is 60 degrees."],
     ["45 degrees", r"$120^\circ$", r"\boxed{45^\circ}", "160 degrees", "60 or 90", "60 minutes", "60 cm", "6", "60%", r"60\pi", "A", "30 degrees"]),
    ("choice", _VALUES, "B", [r"\frac{1}{2}", r"$\frac12$", "1/2", ".5", "0.50", r"\boxed{\frac{1}{2}}", "The answer is 1/2.", "50/100", "B"], [r"\frac14", "0.25", r"\frac{1}{2}\pi", r"\frac{3}{4}", "5", "2", r"-\frac12", "0.05", "1/2 or 3/4"]),
    ("choice", _MONEY, "B", ["1500 dollars", "$1,500", "1500", r"\$1500", "1,500 USD", "The price is $1,500.", "B)", "1.5k dollars"], ["15 dollars", "$15", "1,200", "1500 euros", "1500 kg", "$2,500", "150", "15,000"]),
    ("choice", _COUNTS, "B", ["3", "three", "There are 3.", "There are three dogs.", r"\boxed{3}", "Three", "3 dogs"], ["4", "two", "13", "3 or 4", "2", "thirteen", "3.5"]),
    # A unit or a noun that is unknown is not the reference's
    ("number", _PLAIN, "5 kg", ["5", "5 kg", "5000 g", "It weighs 5 in total.", "5 kilograms"], ["5 joules", "5 J", "5 apples", "5 newtons", "5 N m", "5 m"]),
    ("latex", _PLAIN, r"7\pi kg", [r"$7\pi$", r"$7\pi$ kg."], [r"$7\pi$ joules", r"$7\pi$ apples", r"$7\pi$ J", r"7\pi\text{ J}"]),
    ("latex", _PLAIN, r"24\pi", [r"$24\pi$ square units", r"24\pi \text{ square units}", r"$24\pi$ units", r"\boxed{24\pi \text{ units}^2}", r"$24\pi$ cubic units."], [r"24 square units", r"24\pi^2 \text{ square units}"]),
    ("number", _PLAIN, "7", ["about 7", "~7", "(7)", "7/1", "07"], ["seven-eighths", "seven eighths", "7 eighths", "7th", "7:00", "7-8", "7+", "7k", "7 dozen", "7 squared", "twice 7", "half of 7", "7 in 10", "7e3", "7.0000001", "70%"]),
    ("number", _PLAIN, "4", ["4.", r"\[ \boxed{4} \]", "= 4", "4 (four)", "There are a total of 4 red squares.", "2+2 equals 4", "We have 2 rows with 2 each, so there are 4.", "4 because there are 2 rows of 2.", "Final answer: 4\n\nExplanation: 2 + 2 = 4", "Total: 1 + 3 = 4"],
     ["4i", r"4\,\mathrm{i}", "4 + 2i", "4 < x", "x < 4", r"x \geq 4", "P(4)", "f(4)", "f(x)=4x", "4M", "4 mod 7", "C(4,2)", r"\binom{4}{2}", r"\int_0^4 x", "[4, 5]", "(4, 5)", "4:1", "the 4th", "4½", "4-6", "4 and 5", "4 hundred", "four-fifths", "a fourth", "4 tenths", "the square root of 4", "4 factorial", "4 over 5", r"4_{10}", r"100_2", "$4 million", "isn't 4"]),
    ("latex", _PLAIN, r"\frac{\sqrt{2}}{2}", [r"\frac{1}{\sqrt{2}}", r"\sin 45^\circ", r"\cos\frac{\pi}{4}", "√2/2", "sqrt(2)/2", r"2^{-1/2}", r"\frac{\sqrt2}2", r"\cos 45°", r"\sin(45^{\circ})"], [r"\sin 45", r"\sqrt{2}", r"\frac12", r"\sin 30^\circ", r"\tan 45^\circ"]),
    ("latex", _PLAIN, r"\sqrt{2}", [r"2^{1/2}", r"\sqrt2", "√2"], ["2", "1.41421356", r"\sqrt{2}i", r"\sqrt{2x}", r"-\sqrt{2}", r"\pm\sqrt{2}", r"\sqrt[3]{2}", r"\sqrt{2}+1", r"\frac{\sqrt2}{2}"]),
    ("choice", _TRUTH, "A", [], ["True enough, but false", "It is not true.", "untrue", "half true", "not entirely true"]),
    ("choice", ("Up", "On", "In", "None"), "B", ["On", "B", "It is on.", "on"], ["The cat sits on top. In fact, up.", "In", "None", "A book lies on the table.", "Up"]),
    ("choice", ("30%", "0.5", "3/4", "1"), "C", ["75%", "0.75", r"\frac{3}{4}", r"$\frac34$", "C", "(C) 3/4", r"75\%"], ["1/4", "30%", "1", "0.3", "50%", "75", "3 or 4", r"\frac{3}{4}\pi"]),
    ("choice", ("1 m", "10 cm", "100 cm^2", "5 m"), "B", ["10 cm", "100 mm", "0.1 m", "B.", "The length is 10 cm.", "10 centimeters"], ["10 m", "1 m", "10 cm^2", "100 cm", "100", "5"]),
    ("number", _PLAIN, "9", [r"3^2", r"\boxed{3^{2}}", r"\sqrt{81}", "There are 12 eggs; 3 break, so 9 are left.", r"$\boxed{9}$ apples", "Let's count: 1, 2, 3, 4, 5, 6, 7, 8, 9. So 9.", r"\text{9}"], [r"\frac{9}{\pi}", r"9^{x}", r"\sqrt{9}", r"9\sqrt{5}", r"\log_3 9", r"\frac{81}{10}", r"\boxed{9a}", r"9\cdot 10^{4}", r"\sum_{i=1}^{9} i", "9 × 9", "3 of 9", "9 more than x"]),
    ("number", _PLAIN, "3.2 m", ["320 cm", "3.2 meters", r"3.2\,\mathrm{m}", "The length is 3.2 m."], ["3.2 s", "3.2 km", "3.2 m/s", "3.2 m^2", "3.2 miles", "3.2 volts"]),
    # Boxes
    ("choice", _COLOURS, "D", ["**Answer: D**\n\nReasoning: 2 + 3 is \\boxed{5}.", "\\boxed{D}", "Answer: D", "\\boxed{A}. Wait, no. \\boxed{D}", "**Answer: D**\nCheck: $\\boxed{12}$", "\\boxed{\\text{D}}", "\\boxed{\\textbf{(D)}}", "\\boxed{D. green}", "$\\boxed{\\mathbf{D}}$"], ["\\boxed{D}. Wait, \\boxed{A}", "**Answer: A**\nReasoning: \\boxed{5}", "\\boxed{A} or \\boxed{D}", "\\boxed{A, D}", "Answer: A. Not D."]),
    ("number", _PLAIN, "6", [r"\boxed{5}. Wait, the sum is 6, so \boxed{6}", r"First \boxed{5}. Wait, … \boxed{6}", "\\boxed{5}\nHmm, no.\n\\boxed{6}", r"\boxed{6}, that is \boxed{6}", r"Step 1: \boxed{2}. Step 2: \boxed{6}."], [r"\boxed{6}. Wait, … \boxed{5}", r"\boxed{5} or \boxed{6}", r"\boxed{5}, \boxed{6}", r"\boxed{6} and \boxed{7}", r"\boxed{56}", r"\boxed{5}\boxed{6}"]),
    # Languages
    ("choice", _COLOURS, "B", ["答案是B", "选B", "答案:B", "答案：B", "正确答案为 B", "选项B", "故选B", "故选：B。", "所以答案是B。", "正确答案是：B", "因此，选B。", "答案为(B)", "应选B", "本题选B", "最终答案：B", "Die Antwort ist B", "Die richtige Antwort ist B.", "Antwort: B", "Die Antwort lautet B.", "La réponse est B", "La bonne réponse est B.", "Réponse : B", "La réponse correcte est la B.", "La respuesta es B", "La respuesta correcta es la B.", "Respuesta: B", "A resposta é B", "A resposta correta é B.", "Resposta: B", "La risposta è B", "La risposta corretta è la B.", "Risposta: B", "Ответ: B", "Правильный ответ: B.", "Правильный ответ - B", "答えはBです。", "正解はBです", "答え：B", "정답은 B입니다.", "정답: B", "답은 B", "Het antwoord is B", "选择B选项", "B是正确的", "B项正确", "Antwort B", "C'est B", "Es la B", "Opción B", "La opción correcta es B", "A alternativa correta é B", "L'opzione corretta è B", "Вариант B", "選択肢B", "B입니다", "Bです"],
     ["答案是C", "选C", "故选A", "答案不是B", "不选B", "Die Antwort ist C", "Die Antwort ist nicht B", "La réponse est C", "La réponse n'est pas B.", "La respuesta es C", "La respuesta no es B", "A resposta não é B", "Ответ: C", "答えはCです。", "정답은 C입니다.", "选B还是选C?", "答案是A或B", "B不是正确的", "A是正确的", "Opción A", "Es la A", "Bではない", "B가 아닙니다"]),
    # Text keeps its frame
    ("text", _PLAIN, "England", ["England", "England.", "The answer is England.", "It is England.", "**England**"], ["New England", "not England", "England or Wales", "This is not England", "Wales", "English", "Englands"]),
    ("text", _PLAIN, "This is England", ["This is England", "this is england."], ["This is Spain", "That was England, or Wales"]),
    # Sets
    ("set", _PLAIN, "1/2, 3", ["3, 0.5", "{0.5, 3}", "[1/2, 3]", "0.5 and 3"], ["3", "0.5", "1, 2, 3", "0.5, 3, 4"]),
]  # fmt: skip

ROWS = [
    Row(kind, options, reference, answer, right)
    for kind, options, reference, good, bad in _TABLE
    for right, answers in ((True, good), (False, bad))
    for answer in answers
]

KNOWN_MISSES = frozenset({"Answer: 5 cats and 3 dogs, so 8."})
"""Right answers that are still missed, because what decides them misleads elsewhere."""
