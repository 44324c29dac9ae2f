(() => {
  // --- how long ago a check was, by the reader's clock; overdue where nothing came since -----------------------------

  const hour = 3600e3;
  const told = (hours) => {
    if (hours < 1) return "less than an hour ago";
    const [count, unit] = hours < 48 ? [Math.floor(hours), "hour"] : [Math.floor(hours / 24), "day"];
    return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  };
  for (const time of document.querySelectorAll("time")) {
    const hours = (Date.now() - Date.parse(time.dateTime)) / hour;
    if (!(hours >= 0)) continue;
    time.title = told(hours);
    if (!time.dataset.late) continue;
    const note = document.createElement("span");
    const late = hours > Number(time.dataset.late);
    note.className = late ? "flag" : "soft";
    note.textContent = late ? ` ▲ overdue: ${told(hours)}` : ` (${told(hours)})`;
    time.after(note);
  }
})();
