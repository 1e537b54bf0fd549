() => {
  document.body.classList.add('ready');
  if (new URLSearchParams(location.search).get('view') !== 'api') return;
  // Gradio loads its panel only at a click, and takes the first one for closing what this address has opened
  const open = (tries) => {
    if (!tries || document.querySelector('.api-docs')) return;
    document.querySelector('footer .show-api')?.click();
    setTimeout(() => open(tries - 1), 1000);
  };
  open(4);
}
