// Texts for numbers. An absent value is a dash.

export const NONE = "–";
const SPACE = "\u202f"; // a narrow space that does not break

const significant = (value, digits = 3) => {
  const rounded = Number(value.toPrecision(digits));
  return rounded.toLocaleString("en", {maximumFractionDigits: 6});
};

export const count = (value) => value === undefined || value === null ? NONE
  : value >= 1e6 ? `${significant(value / 1e6)}${SPACE}M`
  : value >= 1e4 ? `${significant(value / 1e3)}${SPACE}k`
  : Math.round(value).toLocaleString("en");

export const rate = (value) => value === undefined || value === null ? NONE
  : value >= 1e6 ? `${significant(value / 1e6)}${SPACE}M`
  : value >= 1e4 ? `${significant(value / 1e3)}${SPACE}k`
  : value >= 100 ? Math.round(value).toLocaleString("en")
  : value >= 10 ? value.toFixed(0)
  : value === 0 ? "0" : value.toFixed(1);

export const duration = (seconds) => seconds === undefined || seconds === null ? NONE
  : seconds >= 100 ? `${Math.round(seconds)}${SPACE}s`
  : seconds >= 1 ? `${significant(seconds, 3)}${SPACE}s`
  : seconds >= 0.1 ? `${Math.round(seconds * 1000)}${SPACE}ms`
  : seconds >= 0.01 ? `${(seconds * 1000).toFixed(1)}${SPACE}ms`
  : `${(seconds * 1000).toFixed(2)}${SPACE}ms`;

// On an axis: no digits that all labels share.
export const durationTick = (seconds) => seconds === 0 ? "0"
  : seconds >= 1 ? `${significant(seconds)}${SPACE}s` : `${significant(seconds * 1000)}${SPACE}ms`;

export const share = (part, whole) => whole > 0 ? part / whole : undefined;

export const percent = (value) => value === undefined || value === null ? NONE
  : value === 0 ? `0${SPACE}%`
  : value < 0.0095 ? `${(value * 100).toFixed(2)}${SPACE}%`
  : value < 0.0995 ? `${(value * 100).toFixed(1)}${SPACE}%`
  : `${Math.round(value * 100)}${SPACE}%`;

// Shares that operators give are whole per mille: nothing of them is rounded away.
export const perMille = (value) => `${value / 10}${SPACE}%`;

export const bytes = (value) => value === undefined ? NONE
  : value >= 2 ** 30 ? `${significant(value / 2 ** 30)}${SPACE}GiB`
  : `${significant(value / 2 ** 20)}${SPACE}MiB`;

const clock = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
export const time = (seconds) => clock.format(new Date(seconds * 1000));

const calendar = new Intl.DateTimeFormat("en-GB", {dateStyle: "medium", timeStyle: "short"});
export const moment = (seconds) => calendar.format(new Date(seconds * 1000));

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
