// A page that is opened as a file may start no worker: browsers count each file as a site of its own. The search then
// runs in a hidden frame, with the messages of a worker. What mkdocs-material would load for this is not on this site.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.body.appendChild(document.createElement("iframe"))
      this.frame.hidden = true
      const inside = this.frame.contentWindow
      inside.document.open()
      inside.document.write(
        "<script>postMessage = (data) => parent.postMessage({fromWorker: data}, '*');" +
        "importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {" +
        "const script = document.createElement('script'); script.src = url; script.onload = done; script.onerror = failed;" +
        "document.body.appendChild(script)})), Promise.resolve())</" + "script>" +
        "<body><script src='" + url + "'></" + "script></body>"
      )
      inside.document.close()
      this.loaded = new Promise((done) => { inside.onload = done })
      this.heard = (event) => {
        if (event.source !== inside || !event.data || !("fromWorker" in event.data)) return
        const message = new MessageEvent("message", { data: event.data.fromWorker })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      }
      addEventListener("message", this.heard)
    }

    postMessage(data) {
      const inside = this.frame.contentWindow
      this.loaded.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }

    terminate() {
      removeEventListener("message", this.heard)
      this.frame.remove()
    }
  }
}
