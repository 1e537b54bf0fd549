() => {
  // Texts of the page whose contrast to what is behind them is below 4.5 (WCAG 2.1, 1.4.3), with their ratio.
  const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (front, back) => [...[0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3])), 1];
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const ancestors = (node) => (node ? [node, ...ancestors(node.parentElement)] : []);
  const behind = (node) => ancestors(node).map((n) => parse(getComputedStyle(n).backgroundColor))
    .reduceRight((back, front) => over(front, back), [255, 255, 255, 1]);
  const opacity = (node) => ancestors(node).reduce((product, n) => product * getComputedStyle(n).opacity, 1);
  const found = [];
  const check = (node, color, text) => {
    const back = behind(node), front = parse(color);
    front[3] *= opacity(node);
    const contrast = ratio(over(front, back), back);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${node.tagName}.${node.className}: ${text.trim().slice(0, 40)}`);
  };
  for (const node of document.querySelectorAll('body *:not(svg *)')) {
    const box = node.getBoundingClientRect(), style = getComputedStyle(node);
    if (!box.width || !box.height || style.visibility === 'hidden') continue;
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent).join('');
    if (text.trim()) check(node, style.color, text);
    if (node.placeholder) check(node, getComputedStyle(node, '::placeholder').color, node.placeholder);
  }
  for (const text of document.querySelectorAll('.scatter .labels text, .scatter .xtick text, .scatter .ytick text')) {
    check(text.closest('.js-plotly-plot'), getComputedStyle(text).fill, text.textContent);
  }
  return found;
}
