() => {
  // the card of what was opened replaces the old one in the next frames
  setTimeout(() => {
    const card = document.querySelector('#details .details');
    if (!card) return;
    card.tabIndex = -1;
    card.focus({ preventScroll: true });
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    card.scrollIntoView({ block: 'start', behavior: calm ? 'auto' : 'smooth' });
  }, 100);
}
